; A boot sector: says on the first serial port from where it was started, then ends the machine through the
; debug-exit port with the drive number that the firmware gave it.
        org     0x7C00
        bits    16
        xor     ax, ax
        mov     ds, ax
        mov     [drive], dl
        ; The firmware leaves the port as it is after a reset: characters of five bits.
        mov     dx, 0x3FB
        mov     al, 3
        out     dx, al
        ; INT 13h function 8: the geometry proves that the firmware's services work from here. A CD has none,
        ; and gets function 41h: are there extensions.
        mov     ah, 8
        mov     dl, [drive]
        cmp     dl, 0xE0
        jb      ask
        mov     ah, 0x41
        mov     bx, 0x55AA
ask:
        xor     di, di
        int     0x13
        mov     si, failed
        jc      print
        mov     si, message
print:  mov     dx, 0x3F8
next:   lodsb
        test    al, al
        jz      done
        out     dx, al
        jmp     next
done:   mov     al, [drive]
        out     0xF4, al
        hlt
        jmp     done

drive:   db     0
message: db     "The boot sector runs.", 13, 10, 0
failed:  db     "INT 13h fails.", 13, 10, 0
        times   510 - ($ - $$) db 0
        dw      0xAA55
