/* Integer code without calls: in registers, with branches, with loads and stores, and a chain of loads. */
#include "workloads.h"

static uint64_t registers(uint64_t count) {
    uint64_t a = 1, b = 2, c = 3;
    for (uint64_t i = 0; i < count; i++) {
        a += b ^ i;
        b = (b << 7 | b >> 57) + c;
        c ^= a * 5;
    }
    return a ^ b ^ c;
}

/* One operation is one step of a Collatz sequence. */
static uint64_t collatz(uint64_t count) {
    uint64_t steps = 0, highest = 0;
    for (uint64_t start = 3; steps < count; start++) {
        for (uint64_t n = start; n != 1 && steps < count; steps++) {
            if (n & 1) {
                n = 3 * n + 1;
                BARRIER();
                if (n > highest) highest = n;
            } else {
                n >>= 1;
                BARRIER();
            }
        }
    }
    return highest;
}

/* One operation is one byte: a table-driven CRC-32 and a count per byte value. */
static uint64_t crc(uint64_t count) {
    static uint32_t table[256], histogram[256];
    static uint8_t bytes[32768];
    uint32_t seed = 1, sum = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        histogram[i] = 0;
        for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
    for (unsigned i = 0; i < sizeof bytes; i++) bytes[i] = next_random(&seed);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t byte = bytes[i % sizeof bytes];
        sum = sum >> 8 ^ table[(sum ^ byte) & 255];
        histogram[byte]++;
    }
    return (uint64_t)sum << 32 ^ histogram[7] ^ histogram[200] << 8;
}

/* One operation is one load, whose address is what the load before it found; 16 KiB in all. */
static uint64_t chase(uint64_t count) {
    enum { places = 256 };
    static struct { void *next; char fill[56]; } ring[places];
    uint8_t order[places];
    uint32_t seed = 1;
    for (int i = 0; i < places; i++) order[i] = i;
    for (int i = places - 1; i > 0; i--) {
        int other = next_random(&seed) % (i + 1);
        uint8_t old = order[i];
        order[i] = order[other];
        order[other] = old;
    }
    for (int i = 0; i < places; i++) ring[order[i]].next = &ring[order[(i + 1) % places]];
    void **at = (void **)&ring[order[0]];
    for (uint64_t i = 0; i < count; i++) at = *at;
    return (uint64_t)((char *)at - (char *)ring);
}

const struct workload integer_workloads[] = {
    {"registers", registers}, {"collatz", collatz}, {"crc", crc}, {"chase", chase}, {0, 0},
};
