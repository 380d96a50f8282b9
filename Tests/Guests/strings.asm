; String instructions: direction, overlap, repeat counts and faults in the middle (SDM vol. 2, REP).
%include "guest.inc"
%include "paging.inc"

%define A 0x180000
%define B 0x190000

main:
    cld
    mov edi, A
    mov ecx, 64
    xor eax, eax
.fill:
    stosb
    inc eax
    loop .fill

    ; Overlap: a forward copy by one smears the first byte.
    mov esi, A
    mov edi, A + 1
    mov ecx, 7
    rep movsb
    cmp dword [A + 4], 0
    check e, "a forward copy to the next byte smears"
    cmp byte [A + 8], 8
    check e, "and stops after ECX bytes"
    cmp esi, A + 7
    check e, "ESI is after the last byte"
    mov dword [A], 0x44332211
    std
    mov esi, A + 3
    mov edi, A + 4
    mov ecx, 4
    rep movsb
    cld
    cmp dword [A + 1], 0x44332211
    check e, "a backward copy moves up whole"
    cmp edi, A
    check e, "EDI ends below"

    ; Comparisons.
    mov dword [A], "abcd"
    mov dword [B], "abXd"
    mov esi, A
    mov edi, B
    mov ecx, 4
    repe cmpsb
    check a, "REPE CMPSB stops with the flags of the difference"
    cmp ecx, 1
    check e, "and with the count that is left"
    mov al, 'd'
    mov edi, A
    mov ecx, 10
    repne scasb
    check e, "REPNE SCASB finds a byte"
    cmp edi, A + 4
    check e, "EDI is behind it"
    xor ecx, ecx
    cmp al, al
    mov edi, 0xFFFFF000
    repne scasb
    check e, "a count of 0 changes no flags and reads nothing"
    mov esi, A
    mov eax, -1
    lodsw
    cmp eax, 0xFFFF6261
    check e, "LODSW keeps the upper half"

    ; 16-bit addresses wrap SI, DI and CX only.
    mov esi, 0x1234FFFE
    mov edi, 0x56780000 | (0x9000)
    mov ecx, 0xABCD0003
    mov byte [0], 0x5A
    a16 rep movsb
    cmp esi, 0x12340001
    check e, "a 16-bit address size wraps SI"
    cmp ecx, 0xABCD0000
    check e, "and counts CX"
    cmp byte [0x9002], 0x5A
    check e, "and copies from offset 0"

    ; Faults in the middle.
    call enable_paging
    page 0, PRESENT | WRITABLE
    page 1, 0
    page 2, PRESENT | WRITABLE
    expecting 14, 0
    mov esi, TEST + 0xFF0
    mov edi, TEST + 0x2000
    mov ecx, 0x100
    rep movsb
    expected "#PF of REP MOVSB at its source"
    cmp dword [seen_ecx], 0xF0
    check e, "ECX counts what is left"
    cmp dword [seen_esi], TEST + 0x1000
    check e, "ESI is the byte that faulted"
    cmp dword [seen_edi], TEST + 0x2010
    check e, "EDI moved as far"
    cmp dword [seen_cr2], TEST + 0x1000
    check e, "CR2 is the byte that faulted"
    expecting 14, 2
    mov edi, TEST + 0xFFA
    mov ecx, 8
    mov eax, 0xDEADBEEF
    rep stosd
    expected "#PF of REP STOSD across a page"
    cmp dword [seen_ecx], 7
    check e, "the dword that crosses is not counted"
    cmp dword [seen_edi], TEST + 0xFFE
    check e, "nor passed"
    expecting 14, 0
    std
    mov esi, TEST + 0x2003
    mov edi, TEST + 0x800
    mov ecx, 8
    rep movsb
    expected "#PF of a backward copy"
    cmp dword [seen_ecx], 4
    check e, "after four bytes"
    cld
    ; A fault that is repaired goes on where it stopped.
    mov byte [FRAMES + 0x1000], 0x77
    page 1, PRESENT | WRITABLE
    mov edi, TEST + 0x2100
    mov esi, TEST + 0xFF0
    mov ecx, 0x20
    rep movsb
    cmp byte [TEST + 0x2110], 0x77
    check e, "a copy over two pages"
    page 1, 0
    xor ecx, ecx
    mov edi, TEST + 0x1000
    rep stosb
    cmp ecx, 0
    check e, "REP with count 0 touches no absent page"
    ret
