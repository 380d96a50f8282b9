; What the tests of the debugger look at: a 64-bit program with symbols, started as a PVH kernel. It starts a
; second processor if there is one, runs a timer, and waits at `wait_loop` until a debugger writes `release`.
; Then it works, says DONE and resets the machine.
;
;   nasm -f elf64 -o debuggee.o debuggee.asm && ld -Ttext=0x200000 -e start -o debuggee debuggee.o

%define APIC 0xFEE00000

section .note.Xen note alloc
    dd 4, 4, 18                 ; XEN_ELFNOTE_PHYS32_ENTRY
    db "Xen", 0
    dd start

section .text
bits 32
global start, main, wait_loop, work, work_store, finish, tick, second_counter, tick_count
global counter, release, letters
start:
    mov esp, stack_top
    mov dx, 0x3FB               ; the serial line: 8 data bits
    mov al, 3
    out dx, al
    mov edi, directory          ; 4 GiB, identical
    mov eax, 0x83
    xor ebx, ebx
.fill:
    mov [edi], eax
    mov [edi + 4], ebx
    add edi, 8
    add eax, 0x200000
    jnc .fill
    mov dword [top], pointers + 3
    mov dword [top + 8 * 511], pointers + 3
    mov dword [pointers], directory + 3
    mov dword [pointers + 8], directory + 0x1003
    mov dword [pointers + 16], directory + 0x2003
    mov dword [pointers + 24], directory + 0x3003
    mov dword [pointers + 8 * 510], directory + 3      ; 0xFFFFFFFF80000000 shows the first GiB again
    mov eax, top
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620               ; PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000002
    and eax, ~4
    mov cr0, eax
    lgdt [descriptors.pointer]
    jmp 8:main

bits 64
main:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rax, 0x0123456789ABCDEF
    mov r15, rax
    movq xmm3, rax
    fninit
    fld1
    mov eax, tick               ; one gate
    mov [interrupts + 16 * 0x40], ax
    mov word [interrupts + 16 * 0x40 + 2], 8
    mov word [interrupts + 16 * 0x40 + 4], 0x8E00
    shr eax, 16
    mov [interrupts + 16 * 0x40 + 6], ax
    lidt [interrupts.pointer]
    mov r8d, APIC
    mov dword [r8 + 0xF0], 0x1FF
    mov dword [r8 + 0x3E0], 0xB           ; the timer counts every tick
    mov dword [r8 + 0x320], 0x20040       ; periodic
    mov dword [r8 + 0x380], 20000
    mov esi, second             ; the second processor begins at 0x8000
    mov edi, 0x8000
    mov ecx, second.end - second
    rep movsb
    mov dword [r8 + 0x310], 0x01000000
    mov dword [r8 + 0x300], 0x4500
    mov dword [r8 + 0x300], 0x4608
    mov esi, ready
    call print
    sti
wait_loop:
    pause
    add rbx, 1
    mov al, [release]
    test al, al
    jz wait_loop
    mov r12d, 10
.again:
    call work
    dec r12d
    jnz .again
finish:
    cli
    mov esi, done
    call print
    mov dx, 0xCF9
    mov al, 6
    out dx, al
    hlt

work:
    mov rdi, [counter]
    add rdi, 3
work_store:
    mov [counter], rdi
    ret

tick:
    push r8
    inc qword [tick_count]
    mov r8d, APIC
    mov dword [r8 + 0xB0], 0
    pop r8
    iretq

print:
    mov dx, 0x3F8
.next:
    lodsb
    test al, al
    jz .end
    out dx, al
    jmp .next
.end:
    ret

bits 16
second:                         ; in real mode
    lock inc dword [cs:second_counter_place - second]
    jmp second
second_counter_place: dd 0
.end:
second.end equ $

section .data
align 16
descriptors:
    dq 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
.pointer:
    dw $ - descriptors - 1
    dq descriptors
interrupts.pointer:
    dw 16 * 0x41 - 1
    dq interrupts
ready: db "READY", 13, 10, 0
done: db "DONE", 13, 10, 0
letters: db "letters for the debugger", 0
align 8
counter: dq 100
tick_count: dq 0
release: db 0
second_counter equ 0x8000 + second_counter_place - second

section .bss
alignb 4096
top: resb 4096
pointers: resb 4096
directory: resb 4 * 4096
interrupts: resb 4096
stack: resb 4096
stack_top:
