; Call gates, task switches and virtual-8086 mode (SDM vol. 3 §5.8, chapter 7, chapter 20).
%include "guest.inc"

%define CALL_GATE FREE1 | 3
%define TASK2     FREE2

; tss_descriptor SLOT, ADDRESS, LIMIT
%macro tss_descriptor 3
    mov eax, %2
    mov word [gdt + %1], %3
    mov [gdt + %1 + 2], ax
    shr eax, 16
    mov [gdt + %1 + 4], al
    mov [gdt + %1 + 7], ah
    mov word [gdt + %1 + 5], 0x0089
%endmacro

main:
    ; A gate for ring 3 with two parameters.
    mov eax, gate_target
    mov [gdt + FREE1], ax
    mov word [gdt + FREE1 + 2], CODE0
    mov word [gdt + FREE1 + 4], 0xEC02
    shr eax, 16
    mov [gdt + FREE1 + 6], ax
    mov dword [gate_result], 0
    expecting_user USER_RETURN, 0
    push dword 0x1111
    push dword 0x2222
    call CALL_GATE:0
    expected_user "a call gate and its return"
    cmp dword [gate_result], 0x3333
    check e, "copies its parameters"
    cmp dword [gate_cs], CODE3
    check e, "saves the caller's CS"
    cmp dword [seen_esp], user_stack_top
    check e, "RETF n drops them from both stacks"
    mov byte [gdt + FREE1 + 5], 0x8C
    expecting_user 13, FREE1
    call CALL_GATE:0
    expected_user "#GP of a gate with too little privilege"
    mov byte [gdt + FREE1 + 5], 0x6C
    expecting_user 11, FREE1
    call CALL_GATE:0
    expected_user "#NP of a gate that is not present"

    ; CALL to a task and IRET back.
    tss_descriptor TASK2, task2, 103
    mov dword [task2 + 0x20], task2_entry
    mov dword [task2 + 0x24], 2
    mov dword [task2 + 0x38], task2_stack_top
    mov dword [task2 + 0x28], 0x7A5C
    mov dword [task2 + 0x4C], CODE0
%assign field 0x48
%rep 5
    %if field != 0x4C
    mov dword [task2 + field], DATA0
    %endif
    %assign field field + 4
%endrep
    mov dword [task2 + 0x5C], DATA0
    mov ebx, 0x1234
    call TASK2:0
    cmp ebx, 0x1234
    check e, "a task call comes back with its registers"
    cmp dword [task2_seen], 0x7A5C
    check e, "the new task has its own EAX"
    cmp word [task2], TASK
    check e, "its back link is the old task"
    test dword [task2_flags], 1 << 14
    check nz, "NT is set in the new task"
    mov eax, cr0
    test al, 8
    check nz, "a task switch sets CR0.TS"
    clts
    str ax
    cmp ax, TASK
    check e, "TR is the old task again"
    test byte [gdt + TASK2 + 5], 2
    check z, "the left task is not busy"
    test byte [gdt + TASK + 5], 2
    check nz, "the current task is busy"
    expecting 13, TASK
    call TASK:0
    expected "#GP of a call to a busy task"

    ; A task gate in the IDT.
    mov dword [idt + 8 * 0x50], TASK2 << 16
    mov dword [idt + 8 * 0x50 + 4], 0x8500
    mov dword [task2 + 0x20], task2_entry
    mov dword [task2 + 0x24], 2
    mov dword [task2 + 0x28], 0x600D
    mov dword [task2 + 0x38], task2_stack_top
    int 0x50
    clts
    cmp dword [task2_seen], 0x600D
    check e, "an interrupt through a task gate"

    ; Virtual-8086 mode.
    mov esi, virtual_code
    mov edi, 0x8000
    mov ecx, virtual_end - virtual_code
    cld
    rep movsb
    expecting 13, 0
    mov edx, virtual_int - virtual_code
    call enter_virtual
    expected "#GP(0) of INT n in virtual-8086 mode with IOPL 0"
    test dword [seen_eflags], 1 << 17
    check nz, "the saved flags have VM"
    cmp dword [seen_cs], 0x800
    check e, "the saved CS is the paragraph"
    cmp dword [seen_eip], virtual_int - virtual_code
    check e, "the saved IP is in the segment"
    mov ax, es
    expecting 13, 0
    mov edx, virtual_hlt - virtual_code
    call enter_virtual
    expected "#GP(0) of HLT in virtual-8086 mode"
    cmp word [0x9000], 0xBEEF
    check e, "its store went to segment * 16 + offset"
    expecting 6, 0
    mov edx, virtual_ud - virtual_code
    call enter_virtual
    expected "#UD of LLDT in virtual-8086 mode"
    expecting USER_RETURN, 0
    mov edx, virtual_int - virtual_code
    mov dword [virtual_flags], 0x23002
    call enter_virtual
    expected "INT n in virtual-8086 mode with IOPL 3 uses the IDT"
    ret

; Enters virtual-8086 mode at 0800:DX.
enter_virtual:
    mov [tss + 4], esp
    xor eax, eax
    push eax                    ; GS
    push eax                    ; FS
    push dword 0x900            ; DS
    push eax                    ; ES
    push dword 0x700            ; SS
    push dword 0x1000           ; ESP
    push dword [virtual_flags]
    push dword 0x800
    push edx
    iretd

bits 16
virtual_code:
virtual_int:
    int USER_RETURN
virtual_hlt:
    mov word [0], 0xBEEF
    hlt
virtual_ud:
    lldt ax
virtual_end:
bits 32

gate_target:
    push ds
    mov cx, DATA0
    mov ds, cx
    mov eax, [esp + 12]
    add eax, [esp + 16]
    mov [gate_result], eax
    mov eax, [esp + 8]
    mov [gate_cs], eax
    pop ds
    retf 8

task2_entry:
    mov [task2_seen], eax
    pushfd
    pop dword [task2_flags]
    iretd

section .data
align 16
virtual_flags: dd 0x20002
gate_result: dd 0
gate_cs:     dd 0
task2_seen:  dd 0
task2_flags: dd 0
align 16
task2: times 26 dd 0
times 64 dd 0
task2_stack_top:
section .text
