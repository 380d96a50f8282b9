#include "CGate.h"
#include <cpuid.h>
#include <sys/random.h>

uint64_t ospite_rdtsc(void) {
    // Not before the loads that come before it: guests compare counters of several vCPUs.
    __builtin_ia32_lfence();
    return __builtin_ia32_rdtsc();
}

void ospite_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}

uint64_t ospite_random(void) {
    uint32_t leaf[4];
    static int has_rdrand = -1;
    uint64_t value = 0;
    unsigned char good = 0;
    if (has_rdrand < 0) {
        ospite_cpuid(1, 0, leaf);
        has_rdrand = (leaf[2] >> 30) & 1;
    }
    for (int attempt = 0; has_rdrand && attempt < 10 && !good; attempt++)
        __asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(value), "=qm"(good) : : "cc");
    if (!good && getrandom(&value, sizeof value, 0) != sizeof value) value ^= ospite_rdtsc();
    return value;
}

uint64_t ospite_xgetbv(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

// Inline assembly rather than builtins: guest addresses may be unaligned, which C atomics do not allow.
#define CAS(bits, type, suffix, constraint)                                                          \
    int ospite_cas##bits(void *address, type *expected, type desired) {                              \
        unsigned char done;                                                                          \
        type seen = *expected;                                                                       \
        __asm__ volatile("lock cmpxchg" suffix " %3, %1\n\tsete %0"                                  \
                         : "=qm"(done), "+m"(*(type *)address), "+a"(seen)                           \
                         : constraint(desired)                                                       \
                         : "memory", "cc");                                                          \
        *expected = seen;                                                                            \
        return done;                                                                                 \
    }
CAS(8, uint8_t, "b", "q")
CAS(16, uint16_t, "w", "r")
CAS(32, uint32_t, "l", "r")
CAS(64, uint64_t, "q", "r")

int ospite_cas128(void *address, uint64_t expected[2], const uint64_t desired[2]) {
    unsigned char done;
    __asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
                     : "=qm"(done), "+m"(*(__int128 *)address), "+a"(expected[0]), "+d"(expected[1])
                     : "b"(desired[0]), "c"(desired[1])
                     : "memory", "cc");
    return done;
}

uint64_t ospite_call1(const void *code, void *argument) {
    return ((uint64_t(*)(void *))(uintptr_t)code)(argument);
}

uint64_t ospite_call2(const void *code, uintptr_t first, uintptr_t second) {
    return ((uint64_t(*)(uintptr_t, uintptr_t))(uintptr_t)code)(first, second);
}
