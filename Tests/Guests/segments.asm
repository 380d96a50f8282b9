; Segment limits and types (SDM vol. 3 §5.3 and §5.5).
%include "guest.inc"

; descriptor SLOT, BASE, LIMIT, ACCESS, FLAGS
%macro descriptor 5
    mov dword [gdt + %1], ((%2) & 0xFFFF) << 16 | (%3) & 0xFFFF
    mov dword [gdt + %1 + 4], ((%2) >> 16 & 0xFF) | (%4) << 8 | ((%3) & 0xF0000) | (%5) << 20
    or dword [gdt + %1 + 4], (%2) & 0xFF000000
%endmacro

%macro load_es 1
    mov ax, %1
    mov es, ax
%endmacro

main:
    ; Expand up, 16 bytes at `area`.
    descriptor FREE1, 0x180000, 15, 0x93, 4
    mov dword [0x18000C], 0x11223344
    load_es FREE1
    mov eax, [es:12]
    push ds
    pop es
    cmp eax, 0x11223344
    check e, "the last dword inside the limit"
    expecting 13, 0
    load_es FREE1
    mov eax, [es:13]
    expected "#GP(0) of a dword across the limit"
    expecting 13, 0
    load_es FREE1
    mov al, [es:16]
    expected "#GP(0) of a byte after the limit"
    expecting 13, 0
    load_es FREE1
    mov eax, [es:0xFFFFFFFE]
    expected "#GP(0) of an access that wraps"

    ; Page granularity: limit 0 means 4096 bytes.
    descriptor FREE1, 0x180000, 0, 0x93, 0xC
    load_es FREE1
    mov al, [es:4095]
    push ds
    pop es
    expecting 13, 0
    load_es FREE1
    mov al, [es:4096]
    expected "#GP(0) of a byte after a page-granular limit"

    ; Expand down: valid above the limit only.
    descriptor FREE1, 0x180000, 0xFFF, 0x97, 4
    load_es FREE1
    mov byte [es:0x1000], 0x5A
    push ds
    pop es
    cmp byte [0x181000], 0x5A
    check e, "the first byte of an expand-down segment"
    expecting 13, 0
    load_es FREE1
    mov al, [es:0xFFF]
    expected "#GP(0) of the limit of an expand-down segment"
    descriptor FREE1, 0x180000, 0xFFF, 0x97, 0
    expecting 13, 0
    load_es FREE1
    mov al, [es:0x10000]
    expected "#GP(0) above 64 KiB of a small expand-down segment"

    ; Types.
    descriptor FREE1, 0, 0xFFFFF, 0x91, 0xC
    expecting 13, 0
    load_es FREE1
    mov [es:0x180000], al
    expected "#GP(0) of a store to a read-only segment"
    descriptor FREE1, 0, 0xFFFFF, 0x99, 0xC
    expecting 13, FREE1
    load_es FREE1
    expected "#GP(selector) of an execute-only segment as data"
    expecting 13, 0
    mov [cs:0x180000], al
    expected "#GP(0) of a store to code"
    descriptor FREE1, 0, 0xFFFFF, 0x90, 0xC
    load_es FREE1
    push ds
    pop es
    test byte [gdt + FREE1 + 5], 1
    check nz, "loading a segment sets its accessed bit"

    ; Stack segment faults carry error code 0.
    descriptor FREE2, 0x180000, 0xFFFF, 0xF3, 4
    expecting_user 12, 0
    mov ebp, 0x20000
    mov ax, FREE2 | 3
    mov ss, ax
    mov eax, [ebp]
    expected_user "#SS(0) of an access beyond the stack's limit"

    ; 16-bit stack: SP wraps at 64 KiB and the upper half of ESP stays.
    descriptor FREE2, 0x180000, 0xFFFF, 0x93, 0
    mov [saved_esp], esp
    mov ax, FREE2
    mov ss, ax
    mov esp, 0x12340000
    push dword 0xCAFEBABE
    mov eax, esp
    mov ss, [flat_selector]
    mov esp, [saved_esp]
    cmp eax, 0x1234FFFC
    check e, "a push on a 16-bit stack wraps SP"
    cmp dword [0x18FFFC], 0xCAFEBABE
    check e, "and stores at the top of the segment"

    ; LAR, LSL, VERR, VERW, ARPL.
    descriptor FREE1, 0, 0x12345, 0x93, 0xC
    mov eax, FREE1
    lsl ebx, eax
    check z, "LSL sees a data segment"
    cmp ebx, 0x12345FFF
    check e, "LSL applies the granularity"
    lar ebx, eax
    and ebx, 0xFFF0FFFF         ; bits 16 to 19 are undefined
    cmp ebx, 0x00C09300
    check e, "LAR gives the access rights"
    mov eax, 0xFFF8
    lsl ebx, eax
    check nz, "LSL refuses a selector beyond the GDT"
    mov ax, CODE0
    verw ax
    check nz, "VERW refuses code"
    verr ax
    check z, "VERR takes readable code"
    mov ax, 0x10
    mov bx, 3
    arpl ax, bx
    check z, "ARPL raises the RPL"
    cmp ax, 0x13
    check e, "to that of its source"

    ; A far jump into a 16-bit code segment and back.
    descriptor FREE3, 0x190000, 0xFFFF, 0x9B, 0
    mov esi, sixteen
    mov edi, 0x190000
    mov ecx, sixteen_end - sixteen
    rep movsb
    xor ebx, ebx
    mov eax, 0xAAAA5555
    call FREE3:0
    cmp eax, 0xAAAA5556
    check e, "INC in a 16-bit segment has 16 bits"
    ret

bits 16
sixteen:
    inc ax
    o32 retf
sixteen_end:
bits 32
