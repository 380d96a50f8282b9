; A boot sector of `make bench`: a sieve of 60,000 numbers in 16-bit code, its numbers in a segment of their own and
; a call for each. First with the stack in a page of its own, APART times, then in the page of the code, BESIDE times:
; "MARK sieve", "MARK apart N", "MARK beside N" on the serial line, N the number of primes, in hexadecimal.
bits 16
org 0x7C00
numbers equ 60000
rounds equ 0x500 ; a word that is left, far from the code
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7000
    cld
    mov dx, 0x3FB ; line control: eight bits
    mov al, 3
    out dx, al
    mov si, text_start
    call print
    mov word [rounds], APART
    call work
    mov si, text_apart
    call report
    mov sp, 0x7C00
    mov word [rounds], BESIDE
    call work
    mov si, text_beside
    call report
done:
    hlt
    jmp done

; BX = how many primes there are, after all rounds.
work:
    mov ax, 0x2000
    mov es, ax
.round:
    xor di, di
    mov cx, numbers / 2
    xor ax, ax
    rep stosw
    mov si, 2
.next:
    cmp byte [es:si], 0
    jne .known
    mov di, si
    add di, si
    jc .known
.multiple:
    cmp di, numbers
    jae .known
    mov byte [es:di], 1
    add di, si
    jnc .multiple
.known:
    inc si
    cmp si, numbers / 2
    jb .next
    xor bx, bx
    mov cx, numbers - 2
    mov si, 2
.count:
    call prime
    add bx, ax
    inc si
    loop .count
    dec word [rounds]
    jnz .round
    ret

; AX = whether SI is one.
prime:
    push bp
    mov bp, sp
    mov al, [es:si]
    xor al, 1
    xor ah, ah
    pop bp
    ret

; Prints the text at SI, then BX.
report:
    call print
    mov cx, 4
.digit:
    rol bx, 4
    mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe .put
    add al, 'A' - '9' - 1
.put:
    call put
    loop .digit
    mov si, text_end
print:
    lodsb
    test al, al
    jz .end
    call put
    jmp print
.end:
    ret
put:
    mov ah, al
    mov dx, 0x3FD
.wait:
    in al, dx
    test al, 0x20
    jz .wait
    mov dx, 0x3F8
    mov al, ah
    out dx, al
    ret

text_start: db "MARK sieve", 13, 10, 0
text_apart: db "MARK apart ", 0
text_beside: db "MARK beside ", 0
text_end: db 13, 10, 0
times 510 - ($ - $$) db 0
dw 0xAA55
