/* Calls: direct and deep, through pointers, and a library that calls back. */
#include <stdlib.h>
#include "workloads.h"

/* One operation is one call. */
__attribute__((noipa, optimize("no-optimize-sibling-calls"))) static uint64_t fibonacci(unsigned n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t fib(uint64_t count) {
    enum { depth = 20, calls = 21891 };
    uint64_t sum = 0;
    for (uint64_t done = 0; done < count; done += calls) sum += fibonacci(depth);
    return sum;
}

#define TARGET(name, expression) \
    __attribute__((noipa)) static uint64_t name(uint64_t x) { return expression; }
TARGET(target0, x + 1)
TARGET(target1, x ^ 0x55)
TARGET(target2, x * 3)
TARGET(target3, x - 7)
TARGET(target4, x << 1 | x >> 63)
TARGET(target5, ~x)
TARGET(target6, x ^ x >> 5)
TARGET(target7, x + (x << 3))

/* One operation is one call through one of eight pointers, in turn. */
static uint64_t indirect(uint64_t count) {
    static uint64_t (*volatile const targets[8])(uint64_t) = {
        target0, target1, target2, target3, target4, target5, target6, target7,
    };
    uint64_t x = 1;
    for (uint64_t i = 0; i < count; i++) x = targets[i & 7](x);
    return x;
}

static int compare(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

/* One operation is the C library's sort of 65,536 numbers. */
static uint64_t sort(uint64_t count) {
    enum { numbers = 65536 };
    static uint32_t values[numbers];
    uint32_t seed = 1;
    uint64_t sum = 0;
    for (uint64_t turn = 0; turn < count; turn++) {
        for (int i = 0; i < numbers; i++) values[i] = next_random(&seed);
        qsort(values, numbers, sizeof values[0], compare);
        for (int i = 1; i < numbers; i++) {
            if (values[i] < values[i - 1]) fail("the numbers are not in order");
        }
        sum = sum * 31 + values[numbers / 2];
    }
    return sum;
}

const struct workload call_workloads[] = {
    {"fib", fib}, {"indirect", indirect}, {"sort", sort}, {0, 0},
};
