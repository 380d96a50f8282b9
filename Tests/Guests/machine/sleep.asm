; Suspends to memory and wakes up in real mode (ACPI 6.5 §5.2.10, §16.1): by the clock's alarm, or with "do=b"
; by the power button alone. Prints "S" before the sleep; after it PM1's status, the PIC's mask and what memory
; keeps, as hexadecimal digits.
%include "machine.inc"
%define STATUS 0x600
%define ENABLE 0x602
%define CONTROL 0x604
%define WAKE 0x8120             ; 0800:0120 after the split at bit 4, or 0812:0000
%define KEPT 0x9000

main:
    mov esi, 0xE0000            ; the FACS is 64-byte aligned
.search:
    cmp dword [esi], 'FACS'
    je .found
    add esi, 64
    cmp esi, 0x100000
    jb .search
    mov al, '?'
    call put
    ret
.found:
    mov dword [esi + 12], WAKE
    mov esi, wake
    mov edi, WAKE
    mov ecx, wake_end - wake
    cld
    rep movsb
    mov dword [KEPT], 0
    mov al, 0x5A                ; loses its power
    out 0x21, al
    mov al, 'S'
    call put
    mov dx, STATUS              ; write ones to clear
    mov ax, 0xFFFF
    out dx, ax
    mov dx, ENABLE
    mov ax, 0x400
    cmp byte [option], 'b'
    jne .enable
    mov ax, 0x100
.enable:
    out dx, ax
    cmp byte [option], 'b'
    je .sleep
    ; An alarm at every second.
    mov ah, 0xC0
    mov al, 1
    call store_clock
    mov al, 3
    call store_clock
    mov al, 5
    call store_clock
    mov al, 0x0C
    out 0x70, al
    in al, 0x71
    mov ax, 0x220B              ; register B: alarm interrupt, 24 hours
    call store_clock
.sleep:
    mov dx, CONTROL
    mov ax, 1 << 10 | 1 << 13
    out dx, ax
    mov dword [KEPT], 1         ; never reached
.awake:
    jmp .awake

; AL = register, AH = value.
store_clock:
    out 0x70, al
    mov al, ah
    out 0x71, al
    ret

bits 16
wake:
    cli
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7000
    mov dx, 0x3FB
    mov al, 3
    out dx, al
    mov dx, STATUS
    in ax, dx
    call .word
    in al, 0x21
    call .byte
    mov ax, [KEPT]
    call .word
    mov ax, cs
    call .word
    mov dx, CONTROL
    mov ax, 5 << 10 | 1 << 13
    out dx, ax
.stop:
    hlt
    jmp .stop
.word:
    push ax
    mov al, ah
    call .byte
    pop ax
.byte:
    push ax
    shr al, 4
    call .digit
    pop ax
    and al, 15
.digit:
    add al, '0'
    cmp al, '9'
    jbe .put
    add al, 7
.put:
    mov dx, 0x3F8
    out dx, al
    ret
wake_end:
bits 32
image_end:
