; Protection keys of user and of supervisor pages under 4-level paging (SDM vol. 3 §4.6.2, §4.7).
%include "longmode.inc"

%define PKU 3                   ; bits of CPUID leaf 7 ECX
%define PKS 31
%define CR4_PKE 22
%define CR4_PKS 24
%define PKRS 0x6E1
%define DATA  (USERPAGE + 0x1000)
%define LEAF  (PML4 + 0x3008)   ; of DATA

; rights VALUE: PKRU
%macro rights 1
    mov eax, %1
    xor ecx, ecx
    xor edx, edx
    wrpkru
%endmacro

; supervisor_rights VALUE: IA32_PKRS
%macro supervisor_rights 1
    mov eax, %1
    mov ecx, PKRS
    xor edx, edx
    wrmsr
%endmacro

; leaf VALUE: the page-table entry of DATA, with key 5
%macro leaf 1
    mov rax, 5 << 59 | %1
    mov [abs LEAF], rax
    invlpg [abs DATA]
%endmacro

bits 64
checks:
    call user_keys
    call saved_keys
    jmp supervisor_keys

user_keys:
    bt dword [abs features7c], PKU
    jnc .none
    expecting64 6, 0
    xor ecx, ecx
    rdpkru
    expected64 "#UD of RDPKRU without CR4.PKE"
    mov eax, 7
    xor ecx, ecx
    cpuid
    test ecx, 1 << 4
    check64 z, "CPUID says that keys are off"
    mov rax, cr4
    bts rax, CR4_PKE
    mov cr4, rax
    mov eax, 7
    xor ecx, ecx
    cpuid
    test ecx, 1 << 4
    check64 nz, "and on, after CR4.PKE"
    expecting64 13, 0
    mov ecx, 1
    rdpkru
    expected64 "#GP(0) of RDPKRU with ECX"
    expecting64 13, 0
    xor ecx, ecx
    mov edx, 1
    wrpkru
    expected64 "#GP(0) of WRPKRU with EDX"
    rights 0x12345678
    mov edx, -1
    rdpkru
    cmp eax, 0x12345678
    check64 e, "RDPKRU reads what WRPKRU wrote"
    test edx, edx
    check64 z, "and clears EDX"

    leaf DATA + 7
    rights 0
    mov byte [abs DATA], 0x11
    rights ~(3 << 10)           ; all but key 5, and page tables are not accesses by keys
    mov al, [abs DATA]
    cmp al, 0x11
    check64 e, "only the page's own key counts"
    rights 1 << 10
    expecting64 14, 0x21
    mov al, [abs DATA]
    expected64 "AD: #PF of a read by ring 0"
    expecting64 14, 0x23
    mov [abs DATA], al
    expected64 "AD: #PF of a write by ring 0"
    expecting_user64 14, 0x25
    mov eax, DATA
    mov al, [rax]
    expected_user64 "AD: #PF of a read by ring 3"
    rights 2 << 10
    expecting_user64 USER_RETURN, 0
    mov eax, DATA
    mov al, [rax]
    expected_user64 "WD: a read by ring 3"
    expecting_user64 14, 0x27
    mov eax, DATA
    mov [rax], al
    expected_user64 "WD: #PF of a write by ring 3"
    expecting64 14, 0x23
    mov al, [abs DATA]
    mov [abs DATA], al
    expected64 "WD: #PF of a write by ring 0 after a read"
    mov rax, cr0
    btr eax, 16
    mov cr0, rax
    mov byte [abs DATA], 0x22
    mov rax, cr0
    bts eax, 16
    mov cr0, rax
    cmp byte [abs DATA], 0x22
    check64 e, "WD: a write by ring 0 without CR0.WP"
    expecting64 14, 0x23
    mov [abs DATA], al
    expected64 "WD: #PF again once CR0.WP is set"
    rights 0
    mov byte [abs DATA], 0x33
    expecting_user64 14, 0x27
    xor ecx, ecx
    xor edx, edx
    mov eax, 2 << 10
    wrpkru
    mov eax, DATA
    mov [rax], al
    expected_user64 "ring 3 denies itself what it just wrote"
    rights 1 << 10
    mov byte [abs USERPAGE], 0xC3
    leaf USERPAGE + 7           ; DATA shows the code page now
    expecting_user64 USER_RETURN, 0
    nop
    expected_user64 "code in ring 3"
    mov qword [abs resume64], .fetched
    mov rax, DATA
    call rax
.fetched:
    mov al, 1
    test al, al
    check64 nz, "AD: fetches are not data accesses"
    leaf DATA + 5
    expecting_user64 14, 0x27
    mov eax, DATA
    mov [rax], al
    expected_user64 "AD of a page that is read-only: both reasons"
    leaf DATA + 6
    expecting_user64 14, 4
    mov eax, DATA
    mov al, [rax]
    expected_user64 "an absent page has no key"
    leaf DATA + 3
    mov al, [abs DATA]
    test rsp, rsp
    check64 nz, "PKRU says nothing of supervisor pages"
    leaf DATA + 7
    mov rax, cr4
    btr rax, CR4_PKE
    mov cr4, rax
    mov al, [abs DATA]
    test rsp, rsp
    check64 nz, "without CR4.PKE keys are ignored"
.none:
    ret

; Component 9 of XSAVE: eight bytes.
saved_keys:
    bt dword [abs features7c], PKU
    jnc .none
    mov rax, cr4
    or eax, 1 << 18
    bts rax, CR4_PKE
    mov cr4, rax
    mov eax, 0xD
    mov ecx, 9
    cpuid
    mov [abs keys_at], ebx
    cmp eax, 8
    check64 e, "CPUID names the component's size"
    xor ecx, ecx
    xor edx, edx
    mov eax, 0x201
    xsetbv
    rights 0x0000A5A0
    mov edi, area
    mov ecx, 1024 / 8
    xor eax, eax
    rep stosq
    mov eax, 0x200
    xor edx, edx
    xsave [abs area]
    mov esi, [abs keys_at]
    cmp qword [rsi + area], 0xA5A0
    check64 e, "XSAVE stores PKRU"
    cmp qword [abs area + 512], 0x200
    check64 e, "XSTATE_BV says so"
    rights 0
    mov eax, 0x200
    xrstor [abs area]
    xor ecx, ecx
    rdpkru
    cmp eax, 0xA5A0
    check64 e, "XRSTOR loads it"
    mov qword [abs area + 512], 0
    mov eax, 0x200
    xor edx, edx
    xrstor [abs area]
    xor ecx, ecx
    rdpkru
    test eax, eax
    check64 z, "XRSTOR without the component makes it zero"
    rights 0x0000A5A0
    mov eax, 0xD
    mov ecx, 1
    cpuid
    test eax, 2
    jz .none
    mov eax, 0x200
    xor edx, edx
    xsavec [abs area]
    cmp qword [abs area + 576], 0xA5A0
    check64 e, "XSAVEC stores it first behind the header"
    mov rax, 1 << 63 | 0x200
    cmp [abs area + 520], rax
    check64 e, "and names its components"
    rights 0
    mov eax, 0x200
    xrstor [abs area]
    xor ecx, ecx
    rdpkru
    cmp eax, 0xA5A0
    check64 e, "XRSTOR takes the compacted image"
.none:
    ret

supervisor_keys:
    bt dword [abs features7c], PKS
    jnc .none
    expecting64 13, 0
    mov eax, 1
    mov edx, 1
    mov ecx, PKRS
    wrmsr
    expected64 "#GP(0) of reserved bits of IA32_PKRS"
    mov rax, cr4
    bts rax, CR4_PKS
    mov cr4, rax
    leaf DATA + 3
    supervisor_rights 1 << 10
    mov ecx, PKRS
    rdmsr
    cmp eax, 1 << 10
    check64 e, "RDMSR reads IA32_PKRS"
    expecting64 14, 0x21
    mov al, [abs DATA]
    expected64 "PKS: #PF of a read"
    supervisor_rights 2 << 10
    expecting64 14, 0x23
    mov al, [abs DATA]
    mov [abs DATA], al
    expected64 "PKS: #PF of a write after a read"
    mov rax, cr0
    btr eax, 16
    mov cr0, rax
    mov byte [abs DATA], 0x44
    mov rax, cr0
    bts eax, 16
    mov cr0, rax
    cmp byte [abs DATA], 0x44
    check64 e, "PKS: a write without CR0.WP"
    supervisor_rights 0
    mov byte [abs DATA], 0x55
    cmp byte [abs DATA], 0x55
    check64 e, "PKS: a write that the new value allows"
    supervisor_rights 1 << 10
    leaf DATA + 7
    mov rax, cr4
    btr rax, CR4_PKE
    mov cr4, rax
    mov al, [abs DATA]
    test rsp, rsp
    check64 nz, "PKRS says nothing of user pages"
.none:
    ret

section .data
keys_at: dd 0
section .bss
alignb 64
area: resb 1024
section .text

end_of_checks
