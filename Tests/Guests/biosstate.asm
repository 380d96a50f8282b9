; What a BIOS leaves to a multiboot kernel: real-mode vectors that return, and the timer's tick at 18.2 Hz on
; vector 8 of a PIC whose other lines are masked.
%include "guest.inc"
%define PLACE 0x8000
%define TICKS 0x46C

main:
    in al, 0x21
    test al, 1
    check z, "the timer's line is open"
    mov dword [gdt + FREE1], 0xFFFF             ; 16-bit code and data from 0
    mov dword [gdt + FREE1 + 4], 0x00009B00
    mov dword [gdt + FREE2], 0xFFFF
    mov dword [gdt + FREE2 + 4], 0x00009300
    mov [kept_esp], esp
    sidt [kept_idt]
    mov esi, real_code
    mov edi, PLACE
    mov ecx, real_code_end - real_code
    cld
    rep movsb
    mov dword [PLACE + seen_ticks - real_code], 0
    jmp FREE1:PLACE
back:
    mov ax, DATA0
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, [kept_esp]
    lidt [kept_idt]
    cmp dword [PLACE + seen_ticks - real_code], 2
    check ae, "HLT in real mode ends by the tick, again and again"
    cmp word [PLACE + returned - real_code], 0x5A5A
    check e, "software interrupts return"
    cmp dword [PLACE + kept_eax - real_code], 0x12345678
    check e, "with the registers as they were"
    ret

bits 16
real_code:
    mov ax, FREE2
    mov ds, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xFE
    mov cr0, eax
    jmp 0:PLACE + (.real - real_code)
.real:
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7000
    lidt [PLACE + real_idt - real_code]
    mov eax, 0x12345678
    int 0x11                    ; on a PC: the equipment word in AX, the rest stays
    int 0x12                    ; memory size in AX
    mov word [PLACE + returned - real_code], 0x5A5A
    and eax, 0xFFFF0000
    or eax, 0x5678
    mov [PLACE + kept_eax - real_code], eax
    mov ebx, [TICKS]
    sti
    hlt
    hlt
    hlt
    cli
    mov eax, [TICKS]
    sub eax, ebx
    mov [PLACE + seen_ticks - real_code], eax
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp dword CODE0:back
align 4
seen_ticks: dd 0
kept_eax:   dd 0
returned:   dw 0
real_idt:
    dw 0x3FF
    dd 0
real_code_end:
bits 32

section .data
align 4
kept_esp: dd 0
kept_idt: times 6 db 0
section .text
