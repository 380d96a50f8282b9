; Code that is overwritten: by its neighbour, by itself, through another mapping, and across pages.
%include "guest.inc"
%include "paging.inc"

main:
    mov byte [patch1 + 1], 42
patch1:
    mov eax, 1
    cmp eax, 42
    check e, "a store to the next instruction"

    ; A loop that rewrites its own immediate.
    xor edx, edx
    mov ecx, 100
rewritten:
    add edx, 0                  ; 83 C2 ib
    inc byte [rewritten + 2]
    loop rewritten
    cmp edx, 99 * 100 / 2
    check e, "a loop that rewrites its own immediate"

    ; The same function with 50 different bodies.
    xor ebx, ebx
    xor edi, edi
bodies:
    mov [function + 1], ebx
    call function
    add edi, eax
    inc ebx
    cmp ebx, 50
    jb bodies
    cmp edi, 49 * 50 / 2
    check e, "a function that is rewritten between calls"

    ; A string store over the code behind it.
    mov edi, patch3
    mov ecx, 4
    cld
    mov eax, 0x40               ; inc eax
    rep stosb
patch3:
    times 4 nop
    cmp eax, 0x44
    check e, "REP STOSB over the next instructions"

    ; A conditional branch turned around.
    mov byte [patch4], 0x75     ; je becomes jne
    cmp eax, 0x44
patch4:
    je wrong
    mov eax, 1
    jmp right
wrong:
    xor eax, eax
right:
    cmp eax, 1
    check e, "a branch that is turned around"

    ; Through an alias.
    call enable_paging
    page 0, PRESENT | WRITABLE
    mov dword [TABLE + 4], FRAMES | PRESENT | WRITABLE
    invlpg [TEST + 0x1000]
    mov dword [TEST], 0x000001B8                ; mov eax, 1
    mov word [TEST + 4], 0xC300                 ; ret
    mov eax, TEST
    call eax
    mov ebx, eax
    mov byte [TEST + 0x1001], 2
    mov eax, TEST
    call eax
    sub eax, ebx
    cmp eax, 1
    check e, "a store through another mapping of the code"

    ; An instruction over two pages, of which the second changes.
    page 2, PRESENT | WRITABLE
    page 3, PRESENT | WRITABLE
    mov byte [TEST + 0x2FFE], 0xB8              ; mov eax, imm32 at ...FFE
    mov byte [TEST + 0x2FFF], 0x11
    mov dword [TEST + 0x3000], 0xC3000000
    mov eax, TEST + 0x2FFE
    call eax
    mov ebx, eax
    mov byte [TEST + 0x3000], 0x22
    mov eax, TEST + 0x2FFE
    call eax
    cmp ebx, 0x11
    check e, "an instruction over two pages"
    cmp eax, 0x2211
    check e, "after a change of its second page"

    ; A new page under old code.
    mov dword [FRAMES + 0x4000], 0x000033B8
    mov word [FRAMES + 0x4004], 0xC300
    mov dword [TABLE], FRAMES + 0x4000 | PRESENT
    invlpg [TEST]
    mov eax, TEST
    call eax
    cmp eax, 0x33
    check e, "code after its page was mapped elsewhere"
    ret

align 16
function:
    mov eax, 0
    ret
