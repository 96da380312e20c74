/* Copyright (C) 2026 virtfleet contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The peer of the helper: the same machine by the same ioctls in the same order, in C.
 * CPUID is patched as the helper does it; both get the CPU's brand string before they begin.
 * Prints two figures: microseconds from open("/dev/kvm") to the first exit, and per further port exit.
 */
#include <cpuid.h>
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define MEMORY (1 << 20)
#define ENTRIES 256

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int call(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);

    if (result < 0)
        err(1, "ioctl %#lx", request);
    return result;
}

int main(int argc, char **argv)
{
    int exits = argc > 1 ? atoi(argv[1]) : 0;
    unsigned turns = exits + 1;
    unsigned char code[] = {
        0x66, 0xb9, turns, turns >> 8, turns >> 16, turns >> 24, /* mov ecx, turns */
        0xe6, 0x80, 0x66, 0x49, 0x75, 0xfa, /* out 0x80, al; dec ecx; jnz .-6 */
        0xb0, 0x00, 0xe6, 0xf4, /* mov al, 0; out 0xf4, al */
    };

    unsigned brand[3][4];

    for (unsigned i = 0; i < 3; i++)
        __cpuid(0x80000002 + i, brand[i][0], brand[i][1], brand[i][2], brand[i][3]);

    double begin = now();
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm < 0 || call(kvm, KVM_GET_API_VERSION, 0) != 12)
        err(1, "/dev/kvm");
    call(kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MAX_VCPUS);

    int vm = call(kvm, KVM_CREATE_VM, 0);
    char *memory = mmap(0, MEMORY, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct kvm_userspace_memory_region region = {
        .memory_size = MEMORY, .userspace_addr = (unsigned long)memory};
    call(vm, KVM_SET_USER_MEMORY_REGION, &region);
    call(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000);
    unsigned long identity = 0xfffbc000;
    call(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    call(vm, KVM_CREATE_IRQCHIP, 0);
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    call(vm, KVM_CREATE_PIT2, &pit);
    memcpy(memory + 0x7c00, code, sizeof(code));

    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(cpuid->entries[0]));
    cpuid->nent = ENTRIES;
    call(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
    for (unsigned i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

        if (entry->function == 1)
            entry->ecx |= 1u << 31;
        if (entry->function - 0x80000002 < 3 && !entry->eax)
            memcpy(&entry->eax, brand[entry->function - 0x80000002], sizeof(brand[0]));
    }
    int vcpu = call(vm, KVM_CREATE_VCPU, 0);
    int size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    volatile struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    call(vcpu, KVM_SET_CPUID2, cpuid);
    struct kvm_sregs sregs;
    call(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    call(vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = {.rip = 0x7c00, .rsp = 0x7c00, .rflags = 2};
    call(vcpu, KVM_SET_REGS, &regs);
    call(vcpu, KVM_RUN, 0);
    double first = now() - begin;

    begin = now();
    do {
        call(vcpu, KVM_RUN, 0);
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "unexpected exit %u", run->exit_reason);
    } while (run->io.port != 0xf4);
    printf("%.3f %.3f\n", first, exits ? (now() - begin) / exits : 0);
    return 0;
}
