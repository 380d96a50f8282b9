; 64-bit mode: gates with IST, SYSCALL, NX, SMEP, SMAP and canonical addresses (SDM vol. 3 chapters 4 to 6).
%include "longmode.inc"

bits 64
checks:
    expecting64 6, 0
    mov rbx, rsp
    ud2
    expected64 "#UD through an interrupt stack"
    cmp qword [abs frame_rsp], ist_top - 40
    check64 e, "the frame is at the top of IST 1"
    mov rax, [abs seen_rsp]
    cmp rax, [abs saved_rsp]
    check64 e, "SS:RSP is saved without a change of ring"

    expecting64 0, 0
    sub rsp, 4
    mov rbx, rsp
    mov [abs expected_rsp], rbx
    xor ecx, ecx
    div ecx
    expected64 "#DE on a misaligned stack"
    mov rax, [abs frame_rsp]
    add rax, 40
    test al, 15
    check64 z, "the frame is aligned"
    mov rax, [abs seen_rsp]
    cmp rax, [abs expected_rsp]
    check64 e, "the saved RSP is not"

    ; Canonical addresses.
    expecting64 13, 0
    mov rax, 0x800000000000
    mov al, [rax]
    expected64 "#GP(0) of an address that is not canonical"
    expecting64 12, 0
    mov rbp, 0x800000000000
    mov rax, [rbp]
    expected64 "#SS(0) of the same by RBP"
    expecting64 13, 0
    mov rax, 0x800000000000
bad_jump:
    jmp rax
    expected64 "#GP(0) of a jump to such an address"
    cmp qword [abs seen_rip], bad_jump
    check64 e, "it is the jump that faults"
    expecting64 14, 0
    mov rax, 0x7FFFFFFFF000
    mov al, [rax]
    expected64 "#PF of a canonical address that is not mapped"

    ; Operand sizes.
    mov rax, -1
    mov eax, eax
    shr rax, 32
    check64 z, "a 32-bit destination clears the upper half"
    mov rax, -1
    mov ax, 0
    mov rbx, 0xFFFFFFFFFFFF0000
    cmp rax, rbx
    check64 e, "a 16-bit destination keeps it"
    expecting64 6, 0
    db 0x06                     ; push es
    expected64 "#UD of PUSH ES"
    expecting64 13, 0
    movaps xmm0, [abs misaligned]
    expected64 "#GP(0) of a misaligned MOVAPS"

    ; Far pointers with 64-bit offsets.
    xor ebx, ebx
    jmp far qword [abs far_here]
    mov bl, 1
here:
    test bl, bl
    check64 z, "a far jump with a 64-bit offset"

    ; No execution.
    mov byte [abs USERPAGE + 0x3000], 0xC3
    expecting64 14, 0x11
    mov rax, USERPAGE + 0x3000
    call rax
    expected64 "#PF of a fetch from a page with NX"
    expecting_user64 14, 0x15
    mov eax, USERPAGE + 0x2000
    jmp rax
    expected_user64 "#PF of the same in ring 3"
    cmp qword [abs seen_cs64], USERCS
    check64 e, "the saved CS is ring 3's"
    expecting_user64 14, 5
    mov eax, LOAD
    mov al, [rax]
    expected_user64 "#PF of a supervisor page in ring 3"

    ; GS holds ring 0's data segment, its base comes from the MSR.
    mov ax, DATA0
    mov gs, ax
    mov ecx, 0xC0000101
    mov eax, 0x12345678
    xor edx, edx
    wrmsr
    expecting_user64 USER_RETURN, 0
    nop
    expected_user64 "a visit to ring 3"
    mov ecx, 0xC0000101
    rdmsr
    cmp eax, 0x12345678
    check64 e, "keeps the base of GS when its selector goes"

    call system_calls
    call stepped_return
    call supervisor_protection

    ; Last: a processor that takes it has no stacks for ring 0 any more.
    expecting64 13, gdt64_far - gdt64
    mov ax, gdt64_far - gdt64
    ltr ax
    expected64 "#GP(selector) of a TSS at an address that is not canonical"
    ret

; SYSRET with TF in R11: the step ends with SYSRET itself.
stepped_return:
    expecting64 1, 0
    mov dword [abs USERPAGE], 0x90909090
    mov ecx, USERPAGE
    mov r11d, 0x102
    o64 sysret
    expected64 "#DB of a SYSRET that sets TF"
    cmp qword [abs seen_rip], USERPAGE
    check64 e, "before ring 3's first instruction"
    cmp qword [abs seen_cs64], USERCS
    check64 e, "in ring 3"
    ret

system_calls:
    mov ecx, 0xC0000081
    xor eax, eax
    mov edx, (USERCS32 | 3) << 16 | CODE64
    wrmsr
    mov ecx, 0xC0000082
    mov eax, system_entry
    xor edx, edx
    wrmsr
    mov ecx, 0xC0000084
    mov eax, 0x400              ; clears DF
    wrmsr
    mov qword [abs syscall_rcx], 0
    expecting_user64 USER_RETURN, 0
    std
    mov r12d, 0x51
    syscall
    expected_user64 "SYSCALL and SYSRET"
    cmp qword [abs syscall_r12], 0x51
    check64 e, "SYSCALL keeps the other registers"
    cmp qword [abs syscall_rcx], USERPAGE + 9   ; std, mov r12d, syscall: 1 + 6 + 2 bytes
    check64 e, "RCX is the next address"
    test dword [abs syscall_r11], 0x400
    check64 nz, "R11 holds the flags"
    test dword [abs syscall_flags], 0x400
    check64 z, "the mask cleared DF"
    cmp word [abs syscall_cs], CODE64
    check64 e, "CS comes from STAR"
    cmp word [abs syscall_ss], DATA64
    check64 e, "SS is CS + 8"
    test dword [abs seen_flags64], 0x400
    check64 nz, "SYSRET restores the flags"
    cmp qword [abs seen_ss64], USERSS
    check64 e, "SYSRET loads ring 3's SS"
    cld
    ret

system_entry:
    mov [abs syscall_rcx], rcx
    mov [abs syscall_r11], r11
    mov [abs syscall_r12], r12
    mov [abs user_rsp], rsp
    mov rsp, stack_top - 2048
    pushfq
    pop qword [abs syscall_flags]
    mov [abs syscall_cs], cs
    mov [abs syscall_ss], ss
    mov rsp, [abs user_rsp]
    o64 sysret

; SMEP and SMAP, as far as the processor offers them.
supervisor_protection:
    mov byte [abs USERPAGE], 0xC3
    test dword [abs features7], 1 << 7
    jz .smap
    mov rax, cr4
    or eax, 1 << 20
    mov cr4, rax
    expecting64 14, 0x11
    mov rax, USERPAGE
    call rax
    expected64 "SMEP: #PF of a fetch from a user page"
    mov rax, cr4
    btr eax, 20
    mov cr4, rax
.smap:
    test dword [abs features7], 1 << 20
    jz .without_smap
    mov rax, cr4
    or eax, 1 << 21
    mov cr4, rax
    expecting64 14, 1
    clac
    mov al, [abs USERPAGE + 0x1000]
    expected64 "SMAP: #PF of a read of a user page"
    expecting64 14, 3
    clac
    mov [abs USERPAGE + 0x1000], al
    expected64 "SMAP: #PF of a write to a user page"
    stac
    mov byte [abs USERPAGE + 0x1000], 0x5A
    cmp byte [abs USERPAGE + 0x1000], 0x5A
    clac
    check64 e, "SMAP: RFLAGS.AC lifts it"
    mov rax, cr4
    btr eax, 21
    mov cr4, rax
.without_smap:
    ret

section .data
far_here:
    dq here
    dw CODE64
section .text

end_of_checks
