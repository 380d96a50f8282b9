; 64-bit mode: gates with IST, SYSCALL, NX, SMEP, SMAP and canonical addresses (SDM vol. 3 chapters 4 to 6).
; The 64-bit part only stores results; they are reported after the way back to 32-bit mode.
%include "guest.inc"

%define PML4     0x300000
%define USERPAGE 0x400000       ; 4 KiB pages for ring 3: 0 code, 1 data, 2 data without execution
%define CODE64   FREE1
%define DATA64   FREE1 + 8      ; SYSCALL: SS = CS + 8
%define USERCS32 FREE1 + 16     ; SYSRET: SS = +8, CS64 = +16
%define USERSS   FREE1 + 24 | 3
%define USERCS   FREE1 + 32 | 3
%define TASK64   TASK

; check64 CONDITION, "name"
%macro check64 2
    set%1 r15b
    movzx r15d, r15b
    add r15d, r15d
    or r15d, 1
    mov [abs results + result_index * 4], r15d
    [section .names]
    db %2, 0
    __?SECT?__
    %assign result_index result_index + 1
%endmacro

; expecting64 VECTOR, ERROR ... expected64 "name"
%macro expecting64 2
    %push expectation
    mov qword [abs want64], %1
    mov qword [abs want64 + 8], %2
    mov qword [abs seen64], -1
    mov qword [abs resume64], %$after
    mov [abs saved_rsp], rsp
%endmacro

%macro expected64 1
%$after:
    mov r14, [abs seen64]
    cmp r14, [abs want64]
    jne %%wrong
    mov r14, [abs seen64 + 8]
    cmp r14, [abs want64 + 8]
%%wrong:
    check64 e, %1
    %pop
%endmacro

; Runs the code in ring 3 on USERPAGE; it must be position independent.
%macro expecting_user64 2
    expecting64 %1, %2
    mov rsi, %$user
    mov rdi, USERPAGE
    mov rcx, %$user_end - %$user
    call copy_user
    push USERSS
    push USERPAGE + 0x2000
    push 2
    push USERCS
    push USERPAGE
    iretq
%$user:
%endmacro

%macro expected_user64 1
    int USER_RETURN
%$user_end:
    expected64 %1
%endmacro

%assign result_index 0

main:
    ; Identity map: 0..4 MiB in 2 MiB pages for ring 0, 4..6 MiB in 4 KiB pages.
    mov edi, PML4
    mov ecx, 4 * 1024
    xor eax, eax
    cld
    rep stosd
    mov dword [PML4], PML4 + 0x1000 + 7
    mov dword [PML4 + 0x1000], PML4 + 0x2000 + 7
    mov dword [PML4 + 0x2000], 0x83
    mov dword [PML4 + 0x2008], 0x200083
    mov dword [PML4 + 0x2010], PML4 + 0x3000 + 7
    mov dword [PML4 + 0x3000], USERPAGE + 7
    mov dword [PML4 + 0x3008], USERPAGE + 0x1007
    mov dword [PML4 + 0x3010], USERPAGE + 0x2007
    mov dword [PML4 + 0x3014], 0x80000000       ; NX
    mov dword [PML4 + 0x3018], USERPAGE + 0x3003
    mov dword [PML4 + 0x301C], 0x80000000

    mov dword [gdt + CODE64 + 4], 0x00209B00
    mov dword [gdt + DATA64 + 4], 0x00009300
    mov dword [gdt + FREE1 + 24], 0xFFFF
    mov dword [gdt + FREE1 + 24 + 4], 0x00CFF300
    mov dword [gdt + FREE1 + 32 + 4], 0x0020FB00
    call fill_idt64
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov [features7], ebx

    mov eax, cr4
    or eax, 1 << 5 | 3 << 9     ; PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 1 << 0 | 1 << 8 | 1 << 11           ; SCE, LME, NXE
    wrmsr
    mov eax, cr0
    or eax, 1 << 31 | 1 << 16
    mov cr0, eax
    jmp CODE64:long_start

; Every vector goes to its stub, #UD on IST 1.
fill_idt64:
    mov edi, idt64
    mov esi, stubs64
    mov ecx, 32
.next:
    call .gate
    mov word [edi + 4], 0x8E00
    add edi, 16
    add esi, stub_size
    loop .next
    mov byte [idt64 + 6 * 16 + 4], 1
    mov edi, idt64 + USER_RETURN * 16
    mov esi, user_return64
    call .gate
    mov word [edi + 4], 0xEE00
    ret
.gate:
    mov eax, esi
    mov [edi], ax
    mov word [edi + 2], CODE64
    shr eax, 16
    mov [edi + 6], ax
    ret

bits 64
long_start:
    lidt [abs idt_pointer64]
    mov ax, DATA0
    mov ss, ax
    ; The 32-bit task's slot becomes a 64-bit one of two entries in a GDT of its own.
    mov qword [abs tss64 + 4], stack_top - 1024
    mov qword [abs tss64 + 0x24], ist_top
    lgdt [abs gdt_pointer64]
    mov eax, tss64
    mov [abs gdt64_task + 2], ax
    shr eax, 16
    mov [abs gdt64_task + 4], al
    mov [abs gdt64_task + 7], ah
    mov ax, gdt64_task - gdt64
    ltr ax

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
    jmp leave

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

copy_user:
    cld
    rep movsb
    ret

leave:
    lgdt [abs gdt_pointer_back]
    jmp dword far [abs far_back]
bits 32
back:
    mov eax, cr0
    and eax, 0x7FFFFFFF
    mov cr0, eax
    mov ecx, 0xC0000080
    rdmsr
    and eax, ~(1 << 8)
    wrmsr
    mov ax, DATA0
    mov ds, ax
    mov es, ax
    mov ss, ax
    lidt [idt_pointer]
    ; Report: a result of 0 was never stored.
    mov esi, names
    mov edi, results
    mov ecx, [result_count]
    cld
.next:
    mov eax, [edi]
    test al, 1
    jz .skipped
    shr eax, 1
    call report_value
    jmp .name
.skipped:
    pushad
    push esi
    mov esi, text_skip
    call print
    pop esi
    call print
    mov al, 10
    call put
    popad
.name:
    lodsb
    test al, al
    jnz .name
    add edi, 4
    loop .next
    jmp finish

bits 64
align 16
stubs64:
%assign vector 0
%rep 32
    align 16
    %if vector != 8 && (vector < 10 || vector > 14) && vector != 17
    push 0
    %endif
    push vector
    jmp near record64
    %assign vector vector + 1
%endrep
align 16
user_return64:
    push 0
    push USER_RETURN
record64:
    cld
    pop qword [abs seen64]
    pop qword [abs seen64 + 8]
    mov [abs frame_rsp], rsp
    pop qword [abs seen_rip]
    pop qword [abs seen_cs64]
    pop qword [abs seen_flags64]
    pop qword [abs seen_rsp]
    pop qword [abs seen_ss64]
    mov rsp, [abs saved_rsp]
    jmp [abs resume64]
bits 32

section .data
align 16
far_back:
    dd back
    dw CODE0
far_here:
    dq here
    dw CODE64
align 16
gdt_pointer64:
    dw gdt64_end - gdt64 - 1
    dq gdt64
gdt_pointer_back:
    dw gdt_end - gdt - 1
    dq gdt
idt_pointer64:
    dw 16 * 256 - 1
    dq idt64
align 8
; The 32-bit frame's GDT again, with the tests' segments and room for a 16-byte task descriptor.
gdt64:
    dq 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0
    dq 0x00209B0000000000       ; CODE64
    dq 0x0000930000000000       ; DATA64
    dq 0x00CFFB000000FFFF       ; USERCS32
    dq 0x00CFF3000000FFFF       ; USERSS
    dq 0x0020FB0000000000       ; USERCS
gdt64_task:
    dq 0x0000890000000067, 0
gdt64_far:
    dq 0x0000890000000067, 0x00AAAAAA
gdt64_end:
align 16
tss64: times 104 db 0
align 16
    db 0
misaligned: times 16 db 0
align 8
want64:      dq 0, 0
seen64:      dq 0, 0
seen_rip:    dq 0
seen_cs64:   dq 0
seen_flags64: dq 0
seen_rsp:    dq 0
seen_ss64:   dq 0
frame_rsp:   dq 0
expected_rsp: dq 0
saved_rsp:   dq 0
resume64:    dq 0
user_rsp:    dq 0
syscall_rcx: dq 0
syscall_r11: dq 0
syscall_r12: dq 0
syscall_flags: dq 0
syscall_cs:  dq 0
syscall_ss:  dq 0
features7:   dd 0
text_skip:   db "SKIP not offered: ", 0
align 4
result_count: dd result_index
results:     times 64 dd 0

section .bss
alignb 16
idt64: resb 16 * 256
ist: resb 4096
ist_top:
section .text
