# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest programs of the tests: machine code on the left, its assembly on the right.

tests/unit/kvm/test_programs.py holds the one against the other. Addresses are those of a flat
image loaded at 0x7c00. `out 0xf4` ends a guest.
"""

from __future__ import annotations

LISTINGS = {
    # Real mode: ends well only at 0000:7c03, where a boot sector would be.
    "real": """
                                  .code16
e8 00 00                          call 1f
58                                1: pop ax
8c cb                             mov bx, cs
01 d8                             add ax, bx
3d 03 7c                          cmp ax, 0x7c03
75 0a                             jne 2f
ba f8 03                          mov dx, 0x3f8
b0 52                             mov al, 'R'
ee                                out dx, al
b0 15                             mov al, 0x15
e6 f4                             out 0xf4, al
e6 f4                             2: out 0xf4, al
""",
    # 32-bit protected mode, entered by the guest; writes and reads above 1 MiB.
    "protected": """
                                  .code16
fa                                cli
0f 01 16 49 7c                    lgdt [gdt_pointer]
0f 20 c0                          mov eax, cr0
0c 01                             or al, 1
0f 22 c0                          mov cr0, eax
ea 13 7c 08 00                    ljmp 0x08, offset main
                                  .code32
b8 10 00 00 00                    main: mov eax, 0x10
8e d8                             mov ds, eax
b9 78 56 34 12                    mov ecx, 0x12345678
89 0d 00 00 15 00                 mov [0x150000], ecx
a1 00 00 15 00                    mov eax, [0x150000]
2d 62 56 34 12                    sub eax, 0x12345678 - 0x16
e6 f4                             out 0xf4, al
00 00 00 00 00 00 00 00           gdt: .quad 0
ff ff 00 00 00 9b cf 00           .quad 0x00cf9b000000ffff
ff ff 00 00 00 93 cf 00           .quad 0x00cf93000000ffff
17 00                             gdt_pointer: .word 23
31 7c 00 00                       .long gdt
""",
    # 64-bit mode with page tables, entered by the guest; shifts a 64-bit register.
    "long": """
                                  .code16
fa                                cli
0f 01 16 9a 7c                    lgdt [gdt_pointer]
0f 20 c0                          mov eax, cr0
0c 01                             or al, 1
0f 22 c0                          mov cr0, eax
ea 13 7c 08 00                    ljmp 0x08, offset main
                                  .code32
b8 10 00 00 00                    main: mov eax, 0x10
8e d8                             mov ds, eax
c7 05 00 00 01 00 03 10 01 00     mov dword ptr [0x10000], 0x11003
c7 05 00 10 01 00 03 20 01 00     mov dword ptr [0x11000], 0x12003
c7 05 00 20 01 00 83 00 00 00     mov dword ptr [0x12000], 0x83
b8 00 00 01 00                    mov eax, 0x10000
0f 22 d8                          mov cr3, eax
b8 20 00 00 00                    mov eax, 0x20
0f 22 e0                          mov cr4, eax
b9 80 00 00 c0                    mov ecx, 0xc0000080
0f 32                             rdmsr
0d 00 01 00 00                    or eax, 0x100
0f 30                             wrmsr
0f 20 c0                          mov eax, cr0
0d 00 00 00 80                    or eax, 0x80000000
0f 22 c0                          mov cr0, eax
ea 68 7c 00 00 18 00              ljmp 0x18, offset wide
                                  .code64
48 bb 00 00 00 00 17 00 00 00     wide: movabs rbx, 0x1700000000
48 c1 eb 20                       shr rbx, 32
89 d8                             mov eax, ebx
e6 f4                             out 0xf4, al
00 00 00 00 00 00 00 00           gdt: .quad 0
ff ff 00 00 00 9b cf 00           .quad 0x00cf9b000000ffff
ff ff 00 00 00 93 cf 00           .quad 0x00cf93000000ffff
ff ff 00 00 00 9b af 00           .quad 0x00af9b000000ffff
1f 00                             gdt_pointer: .word 31
7a 7c 00 00                       .long gdt
""",
    # Five ticks of the PIT through the PIC, halted in between.
    "timer": """
                                  .code16
fa                                cli
c7 06 80 00 28 7c                 mov word ptr [0x80], offset tick
c7 06 82 00 00 00                 mov word ptr [0x82], 0
be 33 7c                          mov si, offset ports
ad                                1: lodsw
89 c2                             mov dx, ax
ac                                lodsb
ee                                out dx, al
81 fe 4b 7c                       cmp si, offset ports_end
72 f5                             jb 1b
fb                                sti
f4                                2: hlt
80 3e 00 90 05                    cmp byte ptr [0x9000], 5
72 f8                             jb 2b
b0 19                             mov al, 0x19
e6 f4                             out 0xf4, al
50                                tick: push ax
fe 06 00 90                       inc byte ptr [0x9000]
b0 20                             mov al, 0x20
e6 20                             out 0x20, al
58                                pop ax
cf                                iret
20 00 11                          ports: .byte 0x20, 0, 0x11
21 00 20                          .byte 0x21, 0, 0x20
21 00 04                          .byte 0x21, 0, 4
21 00 01                          .byte 0x21, 0, 1
21 00 fe                          .byte 0x21, 0, 0xfe
43 00 34                          .byte 0x43, 0, 0x34
40 00 00                          .byte 0x40, 0, 0
40 00 04                          .byte 0x40, 0, 4
90                                ports_end: nop
""",
    # Halts until the serial port's interrupt; ends with the byte that has arrived.
    "serial_irq": """
                                  .code16
fa                                cli
c7 06 90 00 25 7c                 mov word ptr [0x90], offset got
c7 06 92 00 00 00                 mov word ptr [0x92], 0
be 2b 7c                          mov si, offset ports
ad                                1: lodsw
89 c2                             mov dx, ax
ac                                lodsb
ee                                out dx, al
81 fe 40 7c                       cmp si, offset ports_end
72 f5                             jb 1b
ba f8 03                          mov dx, 0x3f8
b0 3e                             mov al, '>'
ee                                out dx, al
fb                                sti
f4                                2: hlt
eb fd                             jmp 2b
ba f8 03                          got: mov dx, 0x3f8
ec                                in al, dx
e6 f4                             out 0xf4, al
20 00 11                          ports: .byte 0x20, 0, 0x11
21 00 20                          .byte 0x21, 0, 0x20
21 00 04                          .byte 0x21, 0, 4
21 00 01                          .byte 0x21, 0, 1
21 00 ef                          .byte 0x21, 0, 0xef
fc 03 08                          .byte 0xfc, 3, 0x08
f9 03 01                          .byte 0xf9, 3, 0x01
90                                ports_end: nop
""",
    # rep outsb and rep insb: says "ready: ", then sends eight bytes of input back.
    "strings": """
                                  .code16
ba f8 03                          mov dx, 0x3f8
be 2a 7c                          mov si, offset text
b9 07 00                          mov cx, 7
f3 6e                             rep outsb
ba fd 03                          mov dx, 0x3fd
ec                                1: in al, dx
a8 01                             test al, 1
74 fb                             jz 1b
ba f8 03                          mov dx, 0x3f8
bf 00 90                          mov di, 0x9000
b9 08 00                          mov cx, 8
f3 6c                             rep insb
be 00 90                          mov si, 0x9000
b9 08 00                          mov cx, 8
f3 6e                             rep outsb
b0 1a                             mov al, 0x1a
e6 f4                             out 0xf4, al
72 65 61 64 79 3a 20              text: .ascii "ready: "
""",
    # Starts the others by INIT and SIPI through its local APIC, waits for their sum.
    "smp_boot": """
                                  .code16
fa                                cli
0f 01 16 5d 7c                    lgdt [gdt_pointer]
0f 20 c0                          mov eax, cr0
0c 01                             or al, 1
0f 22 c0                          mov cr0, eax
ea 13 7c 08 00                    ljmp 0x08, offset main
                                  .code32
b8 10 00 00 00                    main: mov eax, 0x10
8e d8                             mov ds, eax
c7 05 00 03 e0 fe 00 45 0c 00     mov dword ptr [0xfee00300], 0xc4500
c7 05 00 03 e0 fe 08 46 0c 00     mov dword ptr [0xfee00300], 0xc4608
a1 00 90 00 00                    1: mov eax, [0x9000]
3d 14 a3 07 00                    cmp eax, 500500
75 f4                             jne 1b
66 ba f8 03                       mov dx, 0x3f8
b0 62                             mov al, 'b'
ee                                out dx, al
b0 18                             mov al, 0x18
e6 f4                             out 0xf4, al
00 00 00 00 00 00 00 00           gdt: .quad 0
ff ff 00 00 00 9b cf 00           .quad 0x00cf9b000000ffff
ff ff 00 00 00 93 cf 00           .quad 0x00cf93000000ffff
17 00                             gdt_pointer: .word 23
45 7c 00 00                       .long gdt
""",
    # Adds up 1 to 1000 in real mode at 0800:0000; stands at 0x8000.
    "smp_second": """
                                  .code16
31 c0                             xor ax, ax
8e d8                             mov ds, ax
ba f8 03                          mov dx, 0x3f8
b0 61                             mov al, 'a'
ee                                out dx, al
66 31 c0                          xor eax, eax
66 b9 e8 03 00 00                 mov ecx, 1000
66 01 c8                          2: add eax, ecx
66 49                             dec ecx
75 f9                             jnz 2b
66 a3 00 90                       mov [0x9000], eax
fa                                cli
f4                                hlt
""",
    # Resets through the keyboard controller.
    "reset_i8042": """
                                  .code16
b0 fe                             mov al, 0xfe
e6 64                             out 0x64, al
""",
    # Resets through port 0xcf9, after a write that must not.
    "reset_cf9": """
                                  .code16
ba f9 0c                          mov dx, 0xcf9
b0 02                             mov al, 2
ee                                out dx, al
b0 06                             mov al, 6
ee                                out dx, al
""",
    # Enables the power button, says "r", polls it and turns itself off.
    "button": """
                                  .code16
ba 02 06                          mov dx, 0x602
b8 00 01                          mov ax, 0x100
ef                                out dx, ax
ba f8 03                          mov dx, 0x3f8
b0 72                             mov al, 'r'
ee                                out dx, al
ba 00 06                          mov dx, 0x600
ed                                1: in ax, dx
a9 00 01                          test ax, 0x100
74 fa                             jz 1b
ba 04 06                          mov dx, 0x604
b8 00 34                          mov ax, 0x3400
ef                                out dx, ax
""",
    # Enables the power button, says "r", and does not heed it.
    "deaf": """
                                  .code16
ba 02 06                          mov dx, 0x602
b8 00 01                          mov ax, 0x100
ef                                out dx, ax
ba f8 03                          mov dx, 0x3f8
b0 72                             mov al, 'r'
ee                                out dx, al
eb fe                             jmp .
""",
    # 32-bit code: divides by zero without a handler.
    "triple_fault": """
                                  .code32
0f 01 1d 00 05 00 00              lidt [0x500]
31 c9                             xor ecx, ecx
f7 f1                             div ecx
""",
    # popcnt, which KVM's instruction emulator does not know.
    "popcnt": """
                                  .code16
66 f3 0f b8 c1                    popcnt eax, ecx
e6 f4                             out 0xf4, al
""",
    # Keeps the vCPU busy for ever.
    "spin": """
                                  .code16
eb fe                             jmp .
""",
    # Halts for ever, interrupts off.
    "halt": """
                                  .code16
fa                                cli
f4                                hlt
""",
    # Sends x for ever.
    "flood": """
                                  .code16
ba f8 03                          mov dx, 0x3f8
b0 78                             mov al, 0x78
ee                                1: out dx, al
eb fd                             jmp 1b
""",
    # 32-bit code: MMIO of four, two, one byte.
    "mmio": """
                                  .code32
a1 10 00 00 d0                    mov eax, [0xd0000010]
a3 14 00 00 d0                    mov [0xd0000014], eax
66 a1 20 00 00 d0                 mov ax, [0xd0000020]
66 a3 22 00 00 d0                 mov [0xd0000022], ax
a0 30 00 00 d0                    mov al, [0xd0000030]
a2 31 00 00 d0                    mov [0xd0000031], al
a1 00 00 00 e0                    mov eax, [0xe0000000]
a3 00 00 00 e0                    mov [0xe0000000], eax
40                                inc eax
e6 f4                             out 0xf4, al
""",
    # 32-bit code behind a multiboot header: prints command line and first module.
    "multiboot": """
                                  .code32
3d 02 b0 ad 2b                    cmp eax, 0x2badb002
75 1f                             jne 3f
ba f8 03 00 00                    mov edx, 0x3f8
8b 73 10                          mov esi, [ebx + 16]
ac                                1: lodsb
84 c0                             test al, al
74 03                             jz 2f
ee                                out dx, al
eb f8                             jmp 1b
8b 7b 18                          2: mov edi, [ebx + 24]
8b 37                             mov esi, [edi]
8b 4f 04                          mov ecx, [edi + 4]
29 f1                             sub ecx, esi
f3 6e                             rep outsb
8b 43 14                          mov eax, [ebx + 20]
e6 f4                             3: out 0xf4, al
""",
}


def assemble(name: str) -> bytes:
    """Return the code in the first 32 columns of a listing."""
    lines = LISTINGS[name].strip("\n").split("\n")
    return b"".join(bytes.fromhex(line[:32]) for line in lines)


PROGRAMS = {name: assemble(name) for name in LISTINGS}
PROGRAMS["smp"] = PROGRAMS["smp_boot"].ljust(0x400, b"\0") + PROGRAMS["smp_second"]
