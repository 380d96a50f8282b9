; Interrupts that end in memory: KVM's paravirtual end of interrupt (Linux Documentation/virt/kvm/x86/msr.rst),
; with interrupts that the processor sends to itself through the xAPIC page.
%include "guest.inc"

%define APIC 0xFEE00000
%define APIC_EOI (APIC + 0xB0)
%define APIC_COMMAND (APIC + 0x300)
%define IN_SERVICE (APIC + 0x120)       ; of vectors 40h to 5Fh
%define MSR_END 0x4B564D04
%define LOW 0x40
%define HIGH 0x50

; send VECTOR: fixed, to itself
%macro send 1
    mov dword [APIC_COMMAND], 1 << 18 | 1 << 14 | %1
%endmacro

; handle VECTOR, HANDLER
%macro handle 2
    mov edi, idt + 8 * %1
    mov esi, %2
    mov edx, 0x8E00
    call set_gate
%endmacro

; Takes interrupts, at most one after the other.
%macro take 0
    sti
    nop
    nop
    cli
%endmacro

main:
    mov eax, 0x40000000
    cpuid
    cmp ebx, 'KVMK'
    jne .none
    mov eax, 0x40000001
    cpuid
    test eax, 1 << 6
    jz .none
    mov al, 0xFF                ; no interrupts of the board
    out 0x21, al
    out 0xA1, al
    mov dword [APIC + 0xF0], 0x1FF
    expecting 13, 0
    mov ecx, MSR_END
    mov eax, word_of_end + 3
    xor edx, edx
    wrmsr
    expected "#GP(0) of bit 1 of the MSR"

    handle LOW, note_and_end
    send LOW
    take
    cmp dword [noted], 0
    check e, "nothing is offered before the MSR is written"
    mov ecx, MSR_END
    mov eax, word_of_end + 1
    xor edx, edx
    wrmsr
    rdmsr
    cmp eax, word_of_end + 1
    check e, "the MSR keeps its value"

    ; Ends in memory.
    handle LOW, end_in_memory
    send LOW
    take
    cmp dword [ended], 1
    check e, "the handler may end in memory"
    test dword [IN_SERVICE], 1
    check z, "nothing is in service then"
    send LOW
    take
    cmp dword [ended], 2
    check e, "the next interrupt comes, without a look in between"
    handle LOW, end_in_memory
    mov ebx, 1000
.many:
    send LOW
    take
    dec ebx
    jnz .many
    cmp dword [ended], 1002
    check e, "and a thousand more"
    send 0x31                   ; lower priority
    handle 0x31, note_and_end
    mov dword [taken], 0
    take
    cmp dword [taken], 1
    check e, "and one of lower priority"

    ; A look at the local APIC takes the offer back.
    handle LOW, look_first
    send LOW
    take
    test dword [seen_service], 1
    check nz, "the interrupt is in service while its handler looks"
    cmp dword [noted], 0
    check e, "and is to be ended by the register"
    test dword [IN_SERVICE], 1
    check z, "which ends it"

    ; Something else waits.
    handle LOW, note_and_end
    handle HIGH, note_high
    mov dword [noted_high], 2
    send LOW
    send HIGH
    take
    cmp dword [noted_high], 0
    check e, "nothing is offered while another interrupt waits"
    cmp dword [noted], 1
    check e, "but to the last of them"

    ; Nested.
    handle LOW, nest
    mov dword [noted_high], 2
    mov dword [noted], 2
    send LOW
    take
    cmp dword [noted_high], 0
    check e, "a nested interrupt is not offered it"
    cmp dword [noted], 0
    check e, "and takes the offer of the outer one back"
    test dword [IN_SERVICE], 1
    check z, "both have ended"

    ; Level-triggered interrupts and a machine that waits.
    handle LOW, end_in_memory
    mov dword [ended], 0
    mov dword [APIC + 0x320], LOW       ; the timer, once
    mov dword [APIC + 0x3E0], 11
    mov dword [APIC + 0x380], 1000000
    sti
    hlt
    cli
    mov dword [APIC + 0x380], 1000000
    sti
    hlt
    cli
    cmp dword [ended], 2
    check e, "a halted processor gets the next one"

    mov ecx, MSR_END
    xor eax, eax
    xor edx, edx
    wrmsr
    handle LOW, note_and_end
    send LOW
    take
    cmp dword [noted], 0
    check e, "nothing is offered after the MSR is cleared"
    ret
.none:
    mov esi, text_without
    call print
    cmp eax, eax
    check e, "this processor has no such end of interrupt"
    ret

; By the register if need be, as the protocol wants it.
note_and_end:
    inc dword [taken]
    push eax
    mov eax, [word_of_end]
    mov [noted], eax
    pop eax
    btr dword [word_of_end], 0
    jc .done
    mov dword [APIC_EOI], 0
.done:
    iretd

note_high:
    push eax
    mov eax, [word_of_end]
    mov [noted_high], eax
    pop eax
    btr dword [word_of_end], 0
    jc .done
    mov dword [APIC_EOI], 0
.done:
    iretd

end_in_memory:
    btr dword [word_of_end], 0
    jnc .register
    inc dword [ended]
    iretd
.register:
    mov dword [APIC_EOI], 0
    iretd

look_first:
    push eax
    mov eax, [IN_SERVICE]
    mov [seen_service], eax
    mov eax, [word_of_end]
    mov [noted], eax
    pop eax
    btr dword [word_of_end], 0
    jc .done
    mov dword [APIC_EOI], 0
.done:
    iretd

nest:
    send HIGH
    take
    push eax
    mov eax, [word_of_end]
    mov [noted], eax
    pop eax
    btr dword [word_of_end], 0
    jc .done
    mov dword [APIC_EOI], 0
.done:
    iretd

section .data
align 4
word_of_end:  dd 0
noted:        dd 0
noted_high:   dd 0
ended:        dd 0
taken:        dd 0
seen_service: dd 0
text_without: db "SKIP not offered", 10, 0
section .text
