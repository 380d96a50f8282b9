; Page faults and accessed/dirty bits of 32-bit paging (SDM vol. 3 §4.6 to §4.8).
%include "guest.inc"
%include "paging.inc"

main:
    call enable_paging
    expecting 14, 0
    mov al, [TEST + 0x123]
    expected "#PF of a read of an absent page"
    cmp dword [seen_cr2], TEST + 0x123
    check e, "CR2 holds the address"
    expecting 14, 2
    mov [TEST + 0x123], al
    expected "#PF of a write to an absent page"
    expecting_user 14, 4
    mov al, [TEST]
    expected_user "#PF of a read of an absent page by ring 3"
    page 0, PRESENT | WRITABLE
    expecting_user 14, 5
    mov al, [TEST]
    expected_user "#PF of a read of a supervisor page by ring 3"
    expecting_user 14, 7
    mov [TEST], al
    expected_user "#PF of a write to a supervisor page by ring 3"
    page 0, PRESENT | USER
    expecting_user 14, 7
    mov [TEST], al
    expected_user "#PF of a write to a read-only page by ring 3"
    expecting_user 14, 7
    inc dword [TEST]
    expected_user "a read-modify-write faults as a write"
    protect off
    page 0, PRESENT
    mov dword [FRAMES], 0
    mov dword [TEST], 0x600D
    cmp dword [FRAMES], 0x600D
    check e, "ring 0 writes to a read-only page without CR0.WP"
    protect on
    expecting 14, 3
    mov [TEST], al
    expected "#PF of the same with CR0.WP"
    ; The directory entry's bits count too.
    and dword [DIRECTORY + 4], ~USER
    page 0, PRESENT | WRITABLE | USER
    mov eax, cr3
    mov cr3, eax
    expecting_user 14, 5
    mov al, [TEST]
    expected_user "#PF by the directory entry's U bit"
    or dword [DIRECTORY + 4], USER
    mov eax, cr3
    mov cr3, eax

    ; Accessed and dirty.
    page 1, PRESENT | WRITABLE
    and dword [DIRECTORY + 4], ~0x20
    mov eax, cr3
    mov cr3, eax
    mov eax, [TABLE + 4]
    test eax, 0x60
    check z, "a fresh entry is neither accessed nor dirty"
    mov al, [TEST + 0x1000]
    mov eax, [TABLE + 4]
    and eax, 0x60
    cmp eax, 0x20
    check e, "a read sets A and not D"
    test dword [DIRECTORY + 4], 0x20
    check nz, "and A of the directory entry"
    mov [TEST + 0x1000], al
    mov eax, [TABLE + 4]
    and eax, 0x60
    cmp eax, 0x60
    check e, "a write after the read sets D"
    page 1, PRESENT
    expecting 14, 3
    mov [TEST + 0x1000], al
    expected "a write that faults"
    test dword [TABLE + 4], 0x40
    check z, "leaves D alone"

    ; Accesses across two pages.
    page 2, PRESENT | WRITABLE
    page 3, 0
    mov dword [TEST + 0x2FFC], 0x11111111
    expecting 14, 2
    mov dword [TEST + 0x2FFE], 0x22222222
    expected "#PF of a write whose second half is absent"
    cmp dword [seen_cr2], TEST + 0x3000
    check e, "CR2 is the second page"
    cmp dword [TEST + 0x2FFC], 0x11111111
    check e, "and the first page keeps its bytes"
    expecting 14, 0
    mov eax, [TEST + 0x2FFE]
    expected "#PF of a read whose second half is absent"

    ; Instruction fetches.
    expecting 14, 0
    mov eax, TEST + 0x3000
    jmp eax
    expected "#PF of a fetch from an absent page"
    cmp dword [seen_eip], TEST + 0x3000
    check e, "EIP is the target"
    mov dword [TEST + 0x2FFC], 0xB8909090       ; nop nop nop; mov eax, imm32
    expecting 14, 0
    mov eax, TEST + 0x2FFD
    jmp eax
    expected "#PF of an instruction that crosses into an absent page"
    cmp dword [seen_eip], TEST + 0x2FFF
    check e, "EIP is the instruction"
    cmp dword [seen_cr2], TEST + 0x3000
    check e, "CR2 is the second page of a fetch"

    ; A push that faults leaves ESP.
    page 4, 0
    page 5, PRESENT | WRITABLE | USER
    expecting_user 14, 6
    mov esp, TEST + 0x5000
    push eax
    expected_user "#PF of a push by ring 3"
    cmp dword [seen_esp], TEST + 0x5000
    check e, "ESP is as before the push"

    ; INVLPG and large pages.
    mov dword [FRAMES + 0x6000], 0x66666666
    mov dword [FRAMES + 0x7000], 0x77777777
    page 6, PRESENT
    mov eax, [TEST + 0x6000]
    mov dword [TABLE + 6 * 4], FRAMES + 0x7000 | PRESENT
    invlpg [TEST + 0x6000]
    cmp dword [TEST + 0x6000], 0x77777777
    check e, "INVLPG makes a new mapping visible"
    mov dword [DIRECTORY + 8], PRESENT | WRITABLE | 0x80
    mov eax, [0x800000 + FRAMES + 0x6000]
    cmp eax, 0x66666666
    check e, "a 4 MiB page maps physical memory"
    mov eax, [DIRECTORY + 8]
    and eax, 0x60
    cmp eax, 0x20
    check e, "a read sets A of a 4 MiB page"
    mov [0x800000 + FRAMES + 0x6004], eax
    mov eax, [DIRECTORY + 8]
    and eax, 0x60
    cmp eax, 0x60
    check e, "a write sets D of a 4 MiB page"
    mov dword [DIRECTORY + 12], PRESENT | WRITABLE | 0x80 | 1 << 21
    expecting 14, 9
    mov al, [0xC00000]
    expected "#PF of a reserved bit"
    ret
