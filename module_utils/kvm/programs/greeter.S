# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A guest that greets on its serial port with what it sees of its machine, then answers commands.
# A multiboot ELF32 image in 32-bit protected mode without paging. It runs wherever KVM runs, also where
# KVM interprets ring 0 instruction by instruction: plain integer instructions only, and interrupts
# return by popfd and retf, since KVM's interpreter knows iret in real mode alone.
# It has no ticks: between commands the vCPU is halted and costs the host nothing.
#
# build.py assembles this file into greeter.py.

        .intel_syntax noprefix
        .code32

        .set    COM1, 0x3f8
        .set    PIC1, 0x20
        .set    PIC2, 0xa0
        .set    SERIAL_VECTOR, 0x24             # IRQ 4 behind a base of 0x20
        .set    LINE_SIZE, 128
        .set    RING_SIZE, 256                  # a power of two: indexes are bytes

        .text
        .globl  start
        .align  4
multiboot_header:
        .set    FLAGS, 0x2                      # memory information, please
        .long   0x1badb002, FLAGS, -(0x1badb002 + FLAGS)

start:
        mov     esp, offset stack_top
        mov     [information], ebx
        lgdt    gdt_pointer
        ljmp    0x08, offset reload
reload: mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        cld
        call    set_up_interrupts               # first: the controller must see the port's edge
        call    set_up_serial
        call    cmd_time_quiet
        mov     [boot_seconds], eax

        mov     esi, offset text_greeting
        call    puts
        call    cmd_info
        mov     esi, offset text_hint
        call    puts

prompt:
        mov     esi, offset text_prompt
        call    puts
        call    read_line
        call    run_command
        jmp     prompt

# --- commands ---------------------------------------------------------------------------------

# Find the command that the line begins with and call it, esi at its argument.
run_command:
        mov     ebx, offset commands
        cmp     byte ptr [line], 0
        je      9f
1:      mov     edi, [ebx]                      # name
        test    edi, edi
        jz      8f
        mov     esi, offset line
2:      mov     al, [edi]
        test    al, al
        jz      4f
        cmp     al, [esi]
        jne     3f
        inc     esi
        inc     edi
        jmp     2b
3:      add     ebx, 8
        jmp     1b
4:      cmp     byte ptr [esi], 0               # the name must end here or at a blank
        je      5f
        cmp     byte ptr [esi], ' '
        jne     3b
        inc     esi
5:      jmp     [ebx + 4]
8:      mov     esi, offset text_unknown
        call    puts
9:      ret

cmd_help:
        mov     esi, offset text_help
        jmp     puts

cmd_echo:
        call    puts
        jmp     newline

cmd_info:
        mov     esi, offset text_cpu
        call    puts
        call    put_brand
        mov     esi, offset text_vcpus
        call    puts
        mov     eax, 1
        cpuid
        mov     eax, 1
        test    edx, 1 << 28                    # without HTT, EBX says nothing
        jz      1f
        mov     eax, ebx
        shr     eax, 16
        and     eax, 0xff
1:      call    put_decimal
        call    put_hypervisor
        mov     esi, offset text_memory
        call    puts
        call    put_memory
        mov     esi, offset text_time
        call    puts
        call    cmd_time
        mov     esi, offset text_cmdline
        call    puts
        mov     ebx, [information]
        test    byte ptr [ebx], 1 << 2
        jz      2f
        mov     esi, [ebx + 16]
        call    puts
2:      jmp     newline

cmd_uptime:
        call    cmd_time_quiet
        sub     eax, [boot_seconds]
        jns     1f
        add     eax, 86400                      # past midnight
1:      call    put_decimal
        mov     esi, offset text_seconds
        jmp     puts

cmd_exit:
        xor     eax, eax
1:      movzx   ecx, byte ptr [esi]
        sub     ecx, '0'
        cmp     ecx, 9
        ja      2f
        imul    eax, eax, 10
        add     eax, ecx
        inc     esi
        jmp     1b
2:      out     0xf4, eax
        ret

cmd_reset:
        mov     al, 0xfe
        out     0x64, al
        ret

# An exception without a handler, thrice: the machine shuts down.
cmd_crash:
        lidt    empty_idt_pointer
        xor     ecx, ecx
        xor     edx, edx
        div     ecx

cmd_spin:
        jmp     cmd_spin

cmd_flood:
        mov     esi, offset text_flood
        call    puts
        jmp     cmd_flood

# Print the clock as 2026-11-22 22:30:05 UTC.
cmd_time:
        mov     edi, offset time_format
1:      movzx   eax, byte ptr [edi]
        inc     edi
        test    al, al
        jz      3f
        js      2f                              # 0x80 + register
        call    putc
        jmp     1b
2:      and     al, 0x7f
        call    read_clock
        mov     ah, al
        shr     al, 4
        add     al, '0'
        call    putc
        mov     al, ah
        and     al, 0x0f
        add     al, '0'
        call    putc
        jmp     1b
3:      jmp     newline

# Return the seconds since midnight in eax.
cmd_time_quiet:
        mov     al, 0x04
        call    clock_binary
        imul    ecx, eax, 3600
        mov     al, 0x02
        call    clock_binary
        imul    eax, eax, 60
        add     ecx, eax
        mov     al, 0x00
        call    clock_binary
        add     eax, ecx
        ret

# Return the clock register al, which holds BCD, as a number in eax.
clock_binary:
        call    read_clock
        movzx   eax, al
        mov     edx, eax
        shr     eax, 4
        and     edx, 0x0f
        imul    eax, eax, 10
        add     eax, edx
        ret

read_clock:
        out     0x70, al
        in      al, 0x71
        ret

# --- what the machine is ------------------------------------------------------------------------

put_brand:
        mov     eax, 0x80000000
        cpuid
        cmp     eax, 0x80000004
        jb      2f
        mov     edi, offset words
        mov     eax, 0x80000002
1:      push    eax
        cpuid
        mov     [edi], eax
        mov     [edi + 4], ebx
        mov     [edi + 8], ecx
        mov     [edi + 12], edx
        add     edi, 16
        pop     eax
        inc     eax
        cmp     eax, 0x80000004
        jbe     1b
        mov     byte ptr [edi], 0
        mov     esi, offset words - 1
3:      inc     esi                             # some brands are padded in front
        cmp     byte ptr [esi], ' '
        je      3b
        jmp     puts
2:      mov     esi, offset text_no_brand
        jmp     puts

# Print the hypervisor's signature if there is one.
put_hypervisor:
        mov     eax, 1
        cpuid
        test    ecx, ecx
        jns     1f
        mov     eax, 0x40000000
        cpuid
        mov     [words], ebx
        mov     [words + 4], ecx
        mov     [words + 8], edx
        mov     byte ptr [words + 12], 0
        mov     esi, offset text_under
        call    puts
        mov     esi, offset words
        call    puts
1:      mov     al, ')'
        jmp     putc

# Add up the memory map's usable ranges, in KiB, and print MiB.
put_memory:
        mov     ebx, [information]
        test    byte ptr [ebx], 1 << 6
        jz      9f
        mov     esi, [ebx + 48]
        mov     edi, [ebx + 44]
        add     edi, esi
        mov     eax, 384                        # the range from 640 KiB to 1 MiB is not in the map
1:      cmp     esi, edi
        jae     3f
        cmp     dword ptr [esi + 20], 1
        jne     2f
        mov     ecx, [esi + 12]
        mov     edx, [esi + 16]
        shrd    ecx, edx, 10
        add     eax, ecx
2:      add     esi, [esi]
        add     esi, 4
        jmp     1b
3:      shr     eax, 10
        call    put_decimal
9:      mov     esi, offset text_mib
        jmp     puts

# --- serial port and interrupts -----------------------------------------------------------------

set_up_serial:
        mov     esi, offset serial_values
1:      movzx   edx, byte ptr [esi]
        cmp     edx, 0xff
        je      2f
        add     edx, COM1
        mov     al, [esi + 1]
        out     dx, al
        add     esi, 2
        jmp     1b
2:      ret

set_up_interrupts:
        mov     eax, offset serial_interrupt
        mov     [idt + SERIAL_VECTOR * 8], ax
        mov     word ptr [idt + SERIAL_VECTOR * 8 + 2], 0x08
        mov     word ptr [idt + SERIAL_VECTOR * 8 + 4], 0x8e00
        shr     eax, 16
        mov     [idt + SERIAL_VECTOR * 8 + 6], ax
        lidt    idt_pointer
        mov     esi, offset pic_values
1:      movzx   edx, byte ptr [esi]
        cmp     edx, 0xff
        je      2f
        mov     al, [esi + 1]
        out     dx, al
        add     esi, 2
        jmp     1b
2:      ret

# Put what has arrived into the ring; what does not fit is lost.
serial_interrupt:
        push    eax
        push    ecx
        push    edx
1:      mov     edx, COM1 + 5
        in      al, dx
        test    al, 0x01
        jz      2f
        mov     edx, COM1
        in      al, dx
        movzx   ecx, byte ptr [ring_head]
        mov     [ring + ecx], al
        inc     cl
        cmp     cl, [ring_tail]
        je      1b
        mov     [ring_head], cl
        jmp     1b
2:      mov     al, 0x20                        # end of interrupt
        out     PIC1, al
        pop     edx
        pop     ecx
        mov     eax, [esp + 12]                 # the saved flags, behind eax, eip and cs
        push    eax
        popfd
        pop     eax
        retf    4

# Return the next byte in al; halt until there is one.
getc:
        cli
        movzx   ecx, byte ptr [ring_tail]
        cmp     cl, [ring_head]
        jne     1f
        sti                                     # takes effect behind hlt: no wake-up is missed
        hlt
        jmp     getc
1:      sti
        mov     al, [ring + ecx]
        inc     cl
        mov     [ring_tail], cl
        ret

# Read a line into line, with echo and backspace.
read_line:
        mov     edi, offset line
1:      call    getc
        cmp     al, '\r'
        je      8f
        cmp     al, '\n'
        je      8f
        cmp     al, 0x7f
        je      3f
        cmp     al, 0x08
        je      3f
        cmp     al, ' '
        jb      1b
        cmp     edi, offset line + LINE_SIZE - 1
        jae     1b
        mov     [edi], al
        inc     edi
        call    putc
        jmp     1b
3:      cmp     edi, offset line
        je      1b
        dec     edi
        mov     esi, offset text_erase
        call    puts
        jmp     1b
8:      mov     byte ptr [edi], 0
newline:
        mov     esi, offset text_newline
# Print the string at esi.
puts:
        mov     al, [esi]
        test    al, al
        jz      1f
        call    putc
        inc     esi
        jmp     puts
1:      ret

# Print al. Preserves everything.
putc:
        push    edx
        push    eax
        mov     edx, COM1 + 5
1:      in      al, dx
        test    al, 0x20
        jz      1b
        mov     edx, COM1
        pop     eax
        out     dx, al
        pop     edx
        ret

# Print eax in decimal.
put_decimal:
        mov     ecx, 10
        xor     edx, edx
        div     ecx
        push    edx
        test    eax, eax
        jz      1f
        call    put_decimal
1:      pop     eax
        add     al, '0'
        jmp     putc

# --- data -----------------------------------------------------------------------------------------

        .align  8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   SERIAL_VECTOR * 8 + 7
        .long   idt
empty_idt_pointer:
        .word   0
        .long   0

serial_values:                                  # (register, value): 115200 8N1, FIFO, OUT2, input
        .byte   3, 0x80, 0, 1, 1, 0, 3, 0x03, 2, 0x07, 4, 0x0b, 1, 0x01, 0xff
pic_values:                                     # (port, value): vectors from 0x20, all but IRQ 4 masked
        .byte   PIC1, 0x11, PIC1 + 1, 0x20, PIC1 + 1, 4, PIC1 + 1, 1, PIC1 + 1, 0xef
        .byte   PIC2, 0x11, PIC2 + 1, 0x28, PIC2 + 1, 2, PIC2 + 1, 1, PIC2 + 1, 0xff, 0xff

commands:
        .long   name_help, cmd_help, name_info, cmd_info, name_time, cmd_time
        .long   name_uptime, cmd_uptime, name_echo, cmd_echo, name_exit, cmd_exit
        .long   name_reset, cmd_reset, name_crash, cmd_crash, name_spin, cmd_spin
        .long   name_flood, cmd_flood, 0
name_help:      .asciz "help"
name_info:      .asciz "info"
name_time:      .asciz "time"
name_uptime:    .asciz "uptime"
name_echo:      .asciz "echo"
name_exit:      .asciz "exit"
name_reset:     .asciz "reset"
name_crash:     .asciz "crash"
name_spin:      .asciz "spin"
name_flood:     .asciz "flood"

time_format:                                    # 0x80 + clock register, or a character
        .byte   0xb2, 0x89, '-', 0x88, '-', 0x87, ' ', 0x84, ':', 0x82, ':', 0x80
        .asciz  " UTC"

text_greeting:  .asciz "Hello from inside a virtfleet guest.\r\n"
text_cpu:       .asciz "  cpu      "
text_vcpus:     .asciz " (vCPUs: "
text_under:     .asciz ", under "
text_no_brand:  .asciz "unknown"
text_memory:    .asciz "\r\n  memory   "
text_mib:       .asciz " MiB"
text_time:      .asciz "\r\n  time     "
text_cmdline:   .asciz "  cmdline  "
text_hint:      .asciz "Type help and press Enter.\r\n"
text_prompt:    .asciz "> "
text_erase:     .asciz "\b \b"
text_unknown:   .asciz "Unknown command; help lists them.\r\n"
text_seconds:   .asciz " s\r\n"
text_flood:     .asciz "The quick brown fox jumps over the lazy dog, again and again and again.\r\n"
text_newline:   .asciz "\r\n"
text_help:
        .ascii  "info    cpu, memory, time and command line\r\n"
        .ascii  "time    the clock\r\n"
        .ascii  "uptime  seconds since the greeting\r\n"
        .ascii  "echo T  print T\r\n"
        .ascii  "exit N  end with the status (N * 2 + 1) mod 256\r\n"
        .ascii  "reset   end through the keyboard controller\r\n"
        .ascii  "crash   end with a triple fault\r\n"
        .ascii  "spin    keep the vCPU busy for ever\r\n"
        .asciz  "flood   print for ever\r\n"

        .bss
        .align  8
idt:            .skip   (SERIAL_VECTOR + 1) * 8
information:    .skip   4
boot_seconds:   .skip   4
ring_head:      .skip   1
ring_tail:      .skip   1
ring:           .skip   RING_SIZE
line:           .skip   LINE_SIZE
words:          .skip   52
                .align  16
                .skip   4096
stack_top:
