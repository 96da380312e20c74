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
    # 64-bit mode as the Linux boot protocol enters it: checks selectors, header and RSDP, prints
    # command line and initrd; ends with the number of e820's entries.
    "linux64": """
                                  .code64
66 8c c8                          mov ax, cs
66 83 f8 10                       cmp ax, 0x10
75 5e                             jne 9f
66 8c d8                          mov ax, ds
66 83 f8 18                       cmp ax, 0x18
75 55                             jne 9f
81 be 02 02 00 00 48 64 72 53     cmp dword ptr [rsi + 0x202], 0x53726448
75 49                             jne 9f
48 8b 46 70                       mov rax, [rsi + 0x70]
48 8b 00                          mov rax, [rax]
48 b9 52 53 44 20 50 54 52 20     movabs rcx, 0x2052545020445352
48 39 c8                          cmp rax, rcx
75 33                             jne 9f
ba f8 03 00 00                    mov edx, 0x3f8
8b 9e 28 02 00 00                 mov ebx, [rsi + 0x228]
8a 03                             1: mov al, [rbx]
48 ff c3                          inc rbx
84 c0                             test al, al
74 03                             jz 2f
ee                                out dx, al
eb f4                             jmp 1b
49 89 f0                          2: mov r8, rsi
41 8b 88 1c 02 00 00              mov ecx, [r8 + 0x21c]
41 8b b0 18 02 00 00              mov esi, [r8 + 0x218]
f3 6e                             rep outsb
41 8a 80 e8 01 00 00              mov al, [r8 + 0x1e8]
e6 f4                             out 0xf4, al
b0 7f                             9: mov al, 0x7f
e6 f4                             out 0xf4, al
""",
    # 32-bit code as PVH enters it: checks struct hvm_start_info and RSDP, prints command line and
    # first module; ends with the number of entries of the memory map.
    "pvh": """
                                  .code32
81 3b 78 c5 6e 33                 cmp dword ptr [ebx], 0x336ec578
75 37                             jne 9f
0f 20 c0                          mov eax, cr0
25 01 00 00 80                    and eax, 0x80000001
83 f8 01                          cmp eax, 1
75 2a                             jne 9f
8b 73 20                          mov esi, [ebx + 32]
81 3e 52 53 44 20                 cmp dword ptr [esi], 0x20445352
75 1f                             jne 9f
ba f8 03 00 00                    mov edx, 0x3f8
8b 73 18                          mov esi, [ebx + 24]
ac                                1: lodsb
84 c0                             test al, al
74 03                             jz 2f
ee                                out dx, al
eb f8                             jmp 1b
8b 7b 10                          2: mov edi, [ebx + 16]
8b 37                             mov esi, [edi]
8b 4f 08                          mov ecx, [edi + 8]
f3 6e                             rep outsb
8a 43 30                          mov al, [ebx + 48]
e6 f4                             out 0xf4, al
b0 7f                             9: mov al, 0x7f
e6 f4                             out 0xf4, al
""",
    # 32-bit code: ACPI's control register, the kind of sleep first, then its start.
    "power_off": """
                                  .code32
ba 04 06 00 00                    mov edx, 0x604
b8 01 14 00 00                    mov eax, 0x1401
66 ef                             out dx, ax
66 ed                             in ax, dx
66 3d 01 14                       cmp ax, 0x1401
75 07                             jne 9f
b8 01 34 00 00                    mov eax, 0x3401
66 ef                             out dx, ax
b0 7f                             9: mov al, 0x7f
e6 f4                             out 0xf4, al
""",
    # 32-bit code: finds the entropy device at 00:01.0, asks it for 64 bytes and waits for them.
    "virtio_polled": """
                                  .code32
ba f8 0c 00 00                    mov edx, 0xcf8
b8 00 08 00 80                    mov eax, 0x80000800
ef                                out dx, eax
b2 fc                             mov dl, 0xfc
ed                                in eax, dx
3d f4 1a 44 10                    cmp eax, 0x10441af4
0f 85 99 00 00 00                 jne 9f
b2 f8                             mov dl, 0xf8
b8 10 08 00 80                    mov eax, 0x80000810
ef                                out dx, eax
b2 fc                             mov dl, 0xfc
ed                                in eax, dx
89 c5                             mov ebp, eax
c6 45 14 03                       mov byte ptr [ebp + 20], 3
b9 01 00 00 00                    mov ecx, 1
89 4d 08                          mov [ebp + 8], ecx
89 4d 0c                          mov [ebp + 12], ecx
c6 45 14 0b                       mov byte ptr [ebp + 20], 11
8a 45 14                          mov al, [ebp + 20]
3c 0b                             cmp al, 11
75 72                             jne 9f
66 c7 45 18 04 00                 mov word ptr [ebp + 24], 4
bf 00 00 20 00                    mov edi, 0x200000
89 7d 20                          mov [ebp + 32], edi
8d 87 00 10 00 00                 lea eax, [edi + 0x1000]
89 45 28                          mov [ebp + 40], eax
8d 87 00 20 00 00                 lea eax, [edi + 0x2000]
89 45 30                          mov [ebp + 48], eax
66 89 4d 1c                       mov [ebp + 28], cx
c6 45 14 0f                       mov byte ptr [ebp + 20], 15
8d 87 00 30 00 00                 lea eax, [edi + 0x3000]
89 07                             mov [edi], eax
c6 47 08 40                       mov byte ptr [edi + 8], 64
c6 47 0c 02                       mov byte ptr [edi + 12], 2
66 89 8f 02 10 00 00              mov [edi + 0x1002], cx
66 c7 85 00 20 00 00 00 00        mov word ptr [ebp + 0x2000], 0
66 39 8f 02 20 00 00              1: cmp [edi + 0x2002], cx
75 f7                             jne 1b
80 bf 08 20 00 00 40              cmp byte ptr [edi + 0x2008], 64
75 18                             jne 9f
8d b7 00 30 00 00                 lea esi, [edi + 0x3000]
b1 10                             mov cl, 16
31 db                             xor ebx, ebx
ad                                2: lodsd
09 c3                             or ebx, eax
49                                dec ecx
75 fa                             jnz 2b
85 db                             test ebx, ebx
74 04                             jz 9f
b0 1c                             mov al, 0x1c
e6 f4                             out 0xf4, al
b0 7f                             9: mov al, 0x7f
e6 f4                             out 0xf4, al
""",
    # 32-bit code: reads sector 7 of the disk at 00:01.0 and halts until the interrupt of MSI-X;
    # ends with the first byte of the sector.
    "virtio_msix": """
                                  .code32
bf 00 00 20 00                    mov edi, 0x200000
8d a7 00 80 00 00                 lea esp, [edi + 0x8000]
e8 00 00 00 00                    call 1f
5b                                1: pop ebx
8d 83 60 01 00 00                 lea eax, [ebx + 8f - 1b]
66 89 87 00 52 00 00              mov [edi + 0x5200], ax
c6 87 02 52 00 00 08              mov byte ptr [edi + 0x5202], 8
c6 87 05 52 00 00 8e              mov byte ptr [edi + 0x5205], 0x8e
c1 e8 10                          shr eax, 16
66 89 87 06 52 00 00              mov [edi + 0x5206], ax
66 c7 87 08 60 00 00 ff ff        mov word ptr [edi + 0x6008], 0xffff
c7 87 0c 60 00 00 00 9b cf 00     mov dword ptr [edi + 0x600c], 0xcf9b00
c6 87 20 60 00 00 17              mov byte ptr [edi + 0x6020], 23
8d 87 00 60 00 00                 lea eax, [edi + 0x6000]
89 87 22 60 00 00                 mov [edi + 0x6022], eax
66 c7 87 28 60 00 00 07 02        mov word ptr [edi + 0x6028], 0x207
8d 87 00 50 00 00                 lea eax, [edi + 0x5000]
89 87 2a 60 00 00                 mov [edi + 0x602a], eax
0f 01 97 20 60 00 00              lgdt [edi + 0x6020]
0f 01 9f 28 60 00 00              lidt [edi + 0x6028]
c7 05 f0 00 e0 fe ff 01 00 00     mov dword ptr [0xfee000f0], 0x1ff
ba f8 0c 00 00                    mov edx, 0xcf8
b8 34 08 00 80                    mov eax, 0x80000834
ef                                out dx, eax
b2 fc                             mov dl, 0xfc
ed                                in eax, dx
0f b6 c8                          movzx ecx, al
b2 f8                             3: mov dl, 0xf8
b8 00 08 00 80                    mov eax, 0x80000800
88 c8                             mov al, cl
ef                                out dx, eax
b2 fc                             mov dl, 0xfc
ed                                in eax, dx
0f b6 cc                          movzx ecx, ah
3c 11                             cmp al, 0x11
75 ec                             jne 3b
b2 fe                             mov dl, 0xfe
b8 00 80 00 00                    mov eax, 0x8000
66 ef                             out dx, ax
b2 f8                             mov dl, 0xf8
b8 10 08 00 80                    mov eax, 0x80000810
ef                                out dx, eax
b2 fc                             mov dl, 0xfc
ed                                in eax, dx
89 c5                             mov ebp, eax
c7 85 10 10 00 00 00 00 e0 fe     mov dword ptr [ebp + 0x1010], 0xfee00000
c7 85 18 10 00 00 40 00 00 00     mov dword ptr [ebp + 0x1018], 0x40
c7 85 1c 10 00 00 00 00 00 00     mov dword ptr [ebp + 0x101c], 0
c6 45 14 03                       mov byte ptr [ebp + 20], 3
b9 01 00 00 00                    mov ecx, 1
89 4d 08                          mov [ebp + 8], ecx
89 4d 0c                          mov [ebp + 12], ecx
c6 45 14 0b                       mov byte ptr [ebp + 20], 11
66 c7 45 18 04 00                 mov word ptr [ebp + 24], 4
66 89 4d 1a                       mov [ebp + 26], cx
89 7d 20                          mov [ebp + 32], edi
8d 87 00 10 00 00                 lea eax, [edi + 0x1000]
89 45 28                          mov [ebp + 40], eax
8d 87 00 20 00 00                 lea eax, [edi + 0x2000]
89 45 30                          mov [ebp + 48], eax
66 89 4d 1c                       mov [ebp + 28], cx
c6 45 14 0f                       mov byte ptr [ebp + 20], 15
8d 87 00 30 00 00                 lea eax, [edi + 0x3000]
89 07                             mov [edi], eax
c6 40 08 07                       mov byte ptr [eax + 8], 7
c6 47 08 10                       mov byte ptr [edi + 8], 16
c7 47 0c 01 00 01 00              mov dword ptr [edi + 12], 0x10001
8d 87 00 40 00 00                 lea eax, [edi + 0x4000]
89 47 10                          mov [edi + 16], eax
66 c7 47 18 00 02                 mov word ptr [edi + 24], 512
c7 47 1c 03 00 02 00              mov dword ptr [edi + 28], 0x20003
8d 87 00 48 00 00                 lea eax, [edi + 0x4800]
89 47 20                          mov [edi + 32], eax
c6 00 ff                          mov byte ptr [eax], 0xff
88 4f 28                          mov [edi + 40], cl
c6 47 2c 02                       mov byte ptr [edi + 44], 2
66 89 8f 02 10 00 00              mov [edi + 0x1002], cx
66 c7 85 00 20 00 00 00 00        mov word ptr [ebp + 0x2000], 0
fb                                sti
f4                                5: hlt
eb fd                             jmp 5b
66 39 8f 02 20 00 00              8: cmp [edi + 0x2002], cx
75 11                             jne 9f
80 bf 00 48 00 00 00              cmp byte ptr [edi + 0x4800], 0
75 08                             jne 9f
8a 87 00 40 00 00                 mov al, [edi + 0x4000]
e6 f4                             out 0xf4, al
b0 7f                             9: mov al, 0x7f
e6 f4                             out 0xf4, al
""",
}


def assemble(name: str) -> bytes:
    """Return the code in the first 32 columns of a listing."""
    lines = LISTINGS[name].strip("\n").split("\n")
    return b"".join(bytes.fromhex(line[:32]) for line in lines)


PROGRAMS = {name: assemble(name) for name in LISTINGS}
PROGRAMS["smp"] = PROGRAMS["smp_boot"].ljust(0x400, b"\0") + PROGRAMS["smp_second"]
