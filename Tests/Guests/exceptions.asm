; Exceptions of 32-bit protected mode: vectors, error codes and saved addresses (SDM vol. 3 chapter 6).
%include "guest.inc"

main:
    expecting 0, 0
    xor edx, edx
    xor ecx, ecx
    div ecx
    expected "#DE of a division by zero"

    expecting 0, 0
    mov edx, 1
    xor eax, eax
    mov ecx, 1
    div ecx
    expected "#DE of a quotient that is too large"

    expecting 0, 0
    mov ax, 0x80
    neg ax
    mov ax, 0x8000
    mov bl, -1
    idiv bl
    expected "#DE of the most negative dividend"

    expecting 3, 0
breakpoint:
    int3
    expected "#BP of INT3"
    cmp dword [seen_eip], breakpoint + 1
    check e, "#BP is a trap: it saves the next address"

    expecting 4, 0
    mov al, 0x7F
    add al, 1
    into
    expected "#OF of INTO"

    expecting 5, 0
    mov eax, 10
    bound eax, [bounds]
    expected "#BR of BOUND"

    expecting 6, 0
undefined:
    ud2
    expected "#UD of UD2"
    cmp dword [seen_eip], undefined
    check e, "#UD is a fault: it saves its own address"

    expecting 6, 0
    db 0xF0, 0x40               ; lock inc eax
    expected "#UD of LOCK on a register"

    expecting 6, 0
    db 0x8E, 0xC8               ; mov cs, ax
    expected "#UD of MOV to CS"

    mov eax, cr0
    or eax, 8
    mov cr0, eax
    expecting 7, 0
    fnop
    expected "#NM of an FPU instruction with CR0.TS"
    clts
    mov eax, cr0
    or eax, 4
    mov cr0, eax
    expecting 7, 0
    fnop
    expected "#NM of an FPU instruction with CR0.EM"
    mov eax, cr0
    and eax, ~4
    mov cr0, eax

    ; Selectors in error codes.
    expecting 13, 0x1000
    mov ax, 0x1000
    mov es, ax
    expected "#GP(selector) of a selector beyond the GDT"
    expecting 13, 0x1004
    mov ax, 0x1007
    mov es, ax
    expected "#GP of an LDT selector without an LDT drops the RPL"
    mov dword [gdt + FREE1], 0x0000FFFF
    mov dword [gdt + FREE1 + 4], 0x00CF1300     ; data, not present
    expecting 11, FREE1
    mov ax, FREE1
    mov es, ax
    expected "#NP(selector) of a segment that is not present"
    expecting 12, FREE1
    mov ax, FREE1
    mov ss, ax
    expected "#SS(selector) of a stack that is not present"
    expecting 13, 0
    xor eax, eax
    mov ss, ax
    expected "#GP(0) of a null stack"
    expecting 13, CODE0
    mov ax, CODE0
    mov ss, ax
    expected "#GP of a code segment as stack"
    expecting 13, 0
    xor eax, eax
    mov es, ax
    mov al, [es:0]
    expected "#GP(0) of an access by a null selector"

    ; Gates in error codes: vector * 8 + 2.
    expecting 11, 0x42 * 8 + 2
    mov byte [idt + 8 * 0x42 + 5], 0x0E
    int 0x42
    expected "#NP of a gate that is not present"
    expecting 13, 0x43 * 8 + 2
    mov byte [idt + 8 * 0x43 + 5], 0x80
    int 0x43
    expected "#GP of a gate of no type"
    sub word [idt_pointer], 8
    lidt [idt_pointer]
    expecting 13, 0xFF * 8 + 2
    int 0xFF
    expected "#GP of a vector beyond the IDT"
    add word [idt_pointer], 8
    lidt [idt_pointer]

    ; Ring 3.
    expecting_user USER_RETURN, 0
    nop
    expected_user "ring 3 returns by its gate"
    cmp dword [seen_cs], CODE3
    check e, "the saved CS has RPL 3"
    cmp dword [seen_ss], DATA3
    check e, "a change of ring saves SS"
    cmp dword [seen_esp], user_stack_top
    check e, "a change of ring saves ESP"
    expecting_user 13, 0
    hlt
    expected_user "#GP(0) of HLT in ring 3"
    expecting_user 13, 0
    cli
    expected_user "#GP(0) of CLI in ring 3"
    expecting_user 13, 0
    mov eax, cr0
    expected_user "#GP(0) of MOV from CR0 in ring 3"
    expecting_user 13, 6 * 8 + 2
    int 6
    expected_user "#GP of a gate with too little privilege"
    expecting_user 13, DATA0
    mov ax, DATA0
    mov es, ax
    expected_user "#GP of a data segment with more privilege"
    expecting_user 13, 0
    in al, 0x80
    expected_user "#GP(0) of a port that the bitmap denies"
    and byte [tss + 0x68 + 0x80 / 8], 0xFE
    expecting_user USER_RETURN, 0
    in al, 0x80
    expected_user "a port that the bitmap grants"
    expecting_user 13, 0
    in ax, 0x80
    expected_user "#GP(0) of a word with one denied half"

    ; Alignment checks need ring 3, CR0.AM and EFLAGS.AC.
    mov eax, cr0
    or eax, 1 << 18
    mov cr0, eax
    expecting_user 17, 0
    push dword 0x40002
    popfd
    mov eax, [bounds + 1]
    expected_user "#AC(0) of a misaligned load"
    expecting_user USER_RETURN, 0
    push dword 0x40002
    popfd
    mov eax, [bounds]
    expected_user "no #AC of an aligned load"
    ret

section .data
align 8
bounds: dd 0, 5
