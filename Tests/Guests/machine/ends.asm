; Every way in which a guest can end or restart its machine, by the letter after "do=".
%include "machine.inc"
main:
    mov al, [option]
    cmp al, 'o'
    je power_off
    cmp al, 'r'
    je reset
    cmp al, 'k'
    je keyboard_reset
    cmp al, 'p'
    je panic
    cmp al, 't'
    je triple_fault
    cmp al, 'd'
    je debug_exit
    cmp al, 'c'
    je count
    cmp al, 'f'
    je count
    ret                         ; debug exit 0

power_off:                      ; ACPI: PM1a control, SLP_TYP 5 and SLP_EN
    mov dx, 0x604
    mov ax, 5 << 10 | 1 << 13
    out dx, ax
    jmp halt
reset:
    mov dx, 0xCF9
    mov al, 2
    out dx, al
    mov al, 6
    out dx, al
    jmp halt
keyboard_reset:
    mov al, 0xFE
    out 0x64, al
    jmp halt
panic:
    mov dx, 0x505
    mov al, 1
    out dx, al
    jmp halt
triple_fault:
    lidt [no_idt]
    int3
no_idt:
    dw 0
    dd 0
debug_exit:
    mov al, 21
    mov dx, 0xF4
    out dx, al
    jmp halt

; Prints a letter per start, "a" first, and resets; at "e" and "y" it waits for a character before. It counts
; in CMOS, which keeps its content, and powers off at the end. "f" resets by a triple fault each time.
count:
    mov al, 0x50
    out 0x70, al
    in al, 0x71
    inc al
    out 0x71, al
    add al, 'a' - 1
    call put
    cmp al, 'e'
    je .wait
    cmp al, 'y'
    je .wait
    cmp al, 'z'
    je power_off
    ; The image in memory must be the loaded one again.
    cmp dword [touched], 0x600D600D
    jne debug_exit
    mov dword [touched], 0xBADBAD
.again:
    cmp byte [option], 'f'
    je triple_fault
    jmp reset
.wait:
    push eax
    mov al, 10
    call put
    call get
    pop eax
    jmp .again
touched: dd 0x600D600D
image_end:
