; Computes on two processors, and crosses instructions on the way that an emulating KVM cannot execute: what
; comes out must not depend on where it ran. Prints the sums; "TIME" when a clock went backwards.
%include "machine.inc"
%define APIC 0xFEE00000
%define TRAMPOLINE 0x8000
%ifndef ROUNDS
%define ROUNDS 20000
%endif

main:
    ; The other processor's first instructions, in real mode.
    mov esi, trampoline
    mov edi, TRAMPOLINE
    mov ecx, trampoline_end - trampoline
    rep movsb
    mov dword [APIC + 0xF0], 0x1FF
    cmp byte [option], '2'
    jne .alone
    mov dword [APIC + 0x310], 1 << 24
    mov dword [APIC + 0x300], 0x4500            ; INIT
    mov dword [APIC + 0x300], 0x4600 | TRAMPOLINE >> 12
.started:
    pause
    cmp dword [other_runs], 0
    je .started
.alone:
    call long_mode
    cmp byte [option], '2'
    jne .done
.finished:
    pause
    cmp dword [other_done], 0
    je .finished
.done:
    mov eax, [sum]
    call put_hex
    mov eax, [other_sum]
    call put_hex
    cmp dword [backwards], 0
    je .end
    mov al, '!'
    call put
.end:
    ret

; EBX is the state of a linear congruence; the multiplier is Knuth's.
%macro advance 0
    imul ebx, ebx, 1664525
    add ebx, 1013904223
%endmacro

; 64-bit identity map of 2 MiB pages, then work there, then back.
long_mode:
    mov edi, 0x300000
    xor eax, eax
    mov ecx, 0x3000 / 4
    rep stosd
    mov dword [0x300000], 0x301003
    mov dword [0x301000], 0x302003
    mov eax, 0x83
    mov edi, 0x302000
.map:
    mov [edi], eax
    add edi, 8
    add eax, 0x200000
    cmp edi, 0x302000 + 16 * 8
    jb .map
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    mov eax, 0x300000
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 1 << 8
    wrmsr
    mov eax, cr0
    or eax, 1 << 31
    mov cr0, eax
    jmp 0x18:.in64
bits 64
.in64:
    mov ebx, 1
    mov ecx, ROUNDS
    call .time
.work:
    advance
    xor r8d, ebx
    loop .work
    ; What an emulator of ring 0 may not know: CMPXCHG16B with LOCK.
    mov rax, 0x1111111111111111
    mov rdx, 0x2222222222222222
    push rbx
    mov ebx, 7
    mov ecx, 8
    lock cmpxchg16b [abs pair]
    sete r9b
    pop rbx
    movzx r9d, r9b
    add r8d, r9d
    add r8d, [abs pair]
    add r8d, [abs pair + 8]
    call .time
    mov ecx, ROUNDS
.more:
    advance
    xor r8d, ebx
    loop .more
    call .time
    mov [abs sum], r8d
    jmp far dword [abs .back_pointer]   ; without REX.W, on which processors differ
.back_pointer:
    dd .back
    dw CODE0
; The time-stamp counter only goes forward.
.time:
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, [abs last_time]
    jae .forward
    inc dword [abs backwards]
.forward:
    mov [abs last_time], rax
    ret
bits 32
.back:
    mov eax, cr0
    and eax, 0x7FFFFFFF
    mov cr0, eax
    mov ecx, 0xC0000080
    rdmsr
    and eax, ~(1 << 8)
    wrmsr
    ret

; The other processor: works until the first one is through, at least ROUNDS turns.
other:
    mov dword [other_runs], 1
    mov ebx, 3
    mov ecx, ROUNDS * 2
    xor eax, eax
.work:
    advance
    xor eax, ebx
    loop .work
    mov [other_sum], eax
    mov dword [other_done], 1
    jmp halt

bits 16
trampoline:
    cli
    xor ax, ax
    mov ds, ax
    o32 lgdt [TRAMPOLINE + .pointer - trampoline]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp dword CODE0:other_flat
.pointer:
    dw 31
    dd gdt
trampoline_end:
bits 32
other_flat:
    mov ax, DATA0
    mov ds, ax
    mov ss, ax
    mov esp, 0x1F0000
    jmp other

align 16
pair: dq 0x1111111111111111, 0x2222222222222222
last_time: dq 0
sum: dd 0
other_sum: dd 0
other_runs: dd 0
other_done: dd 0
backwards: dd 0
image_end:
