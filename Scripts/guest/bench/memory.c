/* Blocks of memory. One operation is one block of 64 KiB, or of 32 bytes. */
#include <string.h>
#include "workloads.h"

enum { block = 65536 };
static uint8_t source[block], target[block];

static uint64_t checked(uint64_t count) {
    uint64_t sum = count;
    for (int i = 0; i < block; i++) sum = sum * 31 + target[i];
    return sum;
}

static void fill(void) {
    uint32_t seed = 1;
    for (int i = 0; i < block; i++) source[i] = next_random(&seed);
}

static uint64_t copy(uint64_t count) {
    fill();
    for (uint64_t i = 0; i < count; i++) {
        source[i % block]++;
        memcpy(target, source, block);
        BARRIER();
    }
    return checked(count);
}

static uint64_t set(uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        memset(target, (int)i, block);
        BARRIER();
    }
    return checked(count);
}

static void rep_movsb(void *to, const void *from, uint64_t bytes) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
}

static uint64_t movsb(uint64_t count) {
    fill();
    for (uint64_t i = 0; i < count; i++) {
        source[i % block]++;
        rep_movsb(target, source, block);
    }
    return checked(count);
}

static uint64_t short_movsb(uint64_t count) {
    fill();
    for (uint64_t i = 0; i < count; i++) rep_movsb(target + i * 8 % (block - 32), source + i % 512, 32);
    return checked(count);
}

const struct workload memory_workloads[] = {
    {"memcpy", copy}, {"memset", set}, {"movsb", movsb}, {"movsb32", short_movsb}, {0, 0},
};
