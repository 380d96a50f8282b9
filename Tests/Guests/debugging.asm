; Single step and breakpoints (SDM vol. 3 chapter 17).
%include "guest.inc"

%define SPOT 0x180000

%macro clear_dr6 0
    xor eax, eax
    mov dr6, eax
%endmacro

main:
    clear_dr6
    expecting 1, 0
    push dword 0x102
    popfd
    nop
stepped:
    nop
    expected "#DB of a single step"
    cmp dword [seen_eip], stepped
    check e, "it comes after the instruction behind POPFD"
    mov eax, dr6
    test eax, 1 << 14
    check nz, "DR6.BS is set"
    test dword [seen_eflags], 0x100
    check nz, "the saved flags have TF"

    ; MOV SS holds the trap back by one instruction.
    clear_dr6
    expecting 1, 0
    mov cx, ss
    push dword 0x102
    popfd
    mov ss, cx
    nop
after_shadow:
    nop
    expected "#DB of a single step over MOV SS"
    cmp dword [seen_eip], after_shadow
    check e, "it waits for the instruction after MOV SS"

    ; A repeated string instruction traps after every iteration.
    clear_dr6
    expecting 1, 0
    mov edi, SPOT
    mov ecx, 5
    push dword 0x102
    popfd
repeated:
    rep stosb
    nop
    expected "#DB of a single step in REP STOSB"
    cmp dword [seen_ecx], 4
    check e, "after one iteration"
    cmp dword [seen_eip], repeated
    check e, "still at the instruction"

    ; Execution breakpoint: a fault.
    mov eax, 0x4002             ; what earlier traps left
    mov dr6, eax
    mov eax, watched
    mov dr0, eax
    mov eax, 0x401 | 2
    mov dr7, eax
    expecting 1, 0
    nop
watched:
    nop
    expected "#DB of an execution breakpoint"
    cmp dword [seen_eip], watched
    check e, "it comes before the instruction"
    mov eax, dr6
    and eax, 0x400F
    cmp eax, 0x4001
    check e, "DR6 says breakpoint 0 and no other, and keeps BS"

    ; Write breakpoint of 4 bytes in DR1: a trap.
    clear_dr6
    mov eax, SPOT
    mov dr1, eax
    mov eax, 0x400 | 1 << 2 | 0xD << 20
    mov dr7, eax
    mov eax, [SPOT]
    mov dword [SPOT + 4], 1
    expecting 1, 0
    mov byte [SPOT + 3], 7
after_write:
    nop
    expected "#DB of a write breakpoint"
    cmp dword [seen_eip], after_write
    check e, "it comes after the write"
    cmp byte [SPOT + 3], 7
    check e, "which is done"
    mov eax, dr6
    and eax, 0x400F
    cmp eax, 2
    check e, "DR6 says breakpoint 1, and reads and neighbours did not count"
    mov eax, 0x400
    mov dr7, eax

    ; MOV SS holds back the trap of its own load; INT1 is one with it.
    clear_dr6
    mov word [SPOT], DATA0
    mov eax, SPOT
    mov dr1, eax
    mov eax, 0x400 | 1 << 2 | 7 << 20           ; 2 bytes, read or written
    mov dr7, eax
    expecting 1, 0
    mov ss, [SPOT]
    db 0xF1
after_both:
    nop
    expected "#DB of INT1 with a trap held back"
    cmp dword [seen_eip], after_both
    check e, "it comes after INT1"
    mov eax, dr6
    and eax, 0x400F
    cmp eax, 2
    check e, "DR6 says breakpoint 1 then"
    mov eax, 0x400
    mov dr7, eax

    ; General detect.
    clear_dr6
    mov eax, 0x400 | 1 << 13
    mov dr7, eax
    expecting 1, 0
    mov eax, dr0
    expected "#DB of an access to a debug register with DR7.GD"
    mov eax, dr6
    test eax, 1 << 13
    check nz, "DR6.BD is set"
    mov eax, dr7
    test eax, 1 << 13
    check z, "DR7.GD is clear in the handler"

    clear_dr6
    expecting 1, 0
icebp:
    db 0xF1
    expected "#DB of INT1"
    cmp dword [seen_eip], icebp + 1
    check e, "INT1 is a trap"
    ret
