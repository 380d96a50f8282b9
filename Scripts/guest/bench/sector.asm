; A boot sector of `make bench`: says on the serial line that the firmware has come to it, and waits.
bits 16
org 0x7C00
    xor ax, ax
    mov ds, ax
    mov dx, 0x3FB ; line control: eight bits
    mov al, 3
    out dx, al
    mov si, text
    cld
next:
    lodsb
    test al, al
    jz done
    mov bl, al
    mov dx, 0x3FD
wait_for_room:
    in al, dx
    test al, 0x20
    jz wait_for_room
    mov dx, 0x3F8
    mov al, bl
    out dx, al
    jmp next
done:
    hlt
    jmp done
text: db "MARK sector", 13, 10, 0
times 510 - ($ - $$) db 0
dw 0xAA55
