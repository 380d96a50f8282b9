/* What the benchmark's programs share. Each workload does `count` operations and returns a sum over what it
   computed, which must be the same in every guest and on the host. */
#pragma once
#include <stdint.h>

/* Keeps the compiler from turning a branch into a conditional move, or from moving work over this point. */
#define BARRIER() __asm__ volatile("" ::: "memory")

struct workload {
    const char *name;
    uint64_t (*run)(uint64_t count);
};

extern const struct workload integer_workloads[], call_workloads[], vector_workloads[], memory_workloads[],
    system_workloads[];

/* Ends the program with a sentence. */
_Noreturn void fail(const char *what);
/* Monotonic clock, in nanoseconds. */
uint64_t now(void);
/* The next number of a fixed sequence. */
static inline uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}
