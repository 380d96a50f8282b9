; The smallest guest: a multiboot image that writes to the debug-exit port.
bits 32
org 0x100000
header:
    dd 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)
    dd header, header, 0, 0, start
start:
    xor eax, eax
    out 0xF4, al
    hlt
