// What Swift cannot say: the time-stamp counter, atomic operations on unaligned guest memory, calls into
// emitted code. Prototypes only; bodies are in CGate.c.
#ifndef OSPITE_CGATE_H
#define OSPITE_CGATE_H
#include <stdint.h>

/// The host's time-stamp counter.
uint64_t ospite_rdtsc(void);
/// CPUID; fills eax, ebx, ecx, edx into `out`.
void ospite_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/// The host's XCR0.
uint64_t ospite_xgetbv(void);

/// 64 random bits: RDRAND where the host has it, else getrandom.
uint64_t ospite_random(void);

/// `lock cmpxchg` on a possibly unaligned address inside one page: nonzero when it stored `desired`;
/// `*expected` receives what was there.
int ospite_cas8(void *address, uint8_t *expected, uint8_t desired);
int ospite_cas16(void *address, uint16_t *expected, uint16_t desired);
int ospite_cas32(void *address, uint32_t *expected, uint32_t desired);
int ospite_cas64(void *address, uint64_t *expected, uint64_t desired);
/// `lock cmpxchg16b`; `address` is 16-byte aligned.
int ospite_cas128(void *address, uint64_t expected[2], const uint64_t desired[2]);

/// Calls emitted code at `code` with one argument in RDI; the code follows the System V ABI.
uint64_t ospite_call1(const void *code, void *argument);
/// The same with two arguments, in RDI and RSI.
uint64_t ospite_call2(const void *code, uintptr_t first, uintptr_t second);

#endif
