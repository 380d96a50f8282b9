/* What the kernel does with several processors: waking, forking, switching with all of a thread's state. */
#include "torture.h"
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>

enum { throws = 1500 };
static _Atomic uint32_t ball[threads / 2];

static void wait_while(_Atomic uint32_t *word, uint32_t value) {
    while (atomic_load(word) == value) syscall(SYS_futex, word, FUTEX_WAIT, value, 0, 0, 0);
}

static void play(int number) {
    _Atomic uint32_t *mine = &ball[number / 2];
    for (uint32_t i = 0; i < throws; i++) {
        // Even: the first player has it; odd: the second.
        uint32_t value = 2 * i + number % 2;
        while (atomic_load(mine) != value) wait_while(mine, value - 1);
        atomic_store(mine, value + 1);
        syscall(SYS_futex, mine, FUTEX_WAKE, 1, 0, 0, 0);
    }
}

const char *futexes(void) {
    for (int i = 0; i < threads / 2; i++) atomic_store(&ball[i], 0);
    in_threads(threads, play);
    for (int i = 0; i < threads / 2; i++) {
        if (ball[i] != 2 * throws) return "a ball was lost";
    }
    return 0;
}

enum { children = 25, child_pages = 16 };
static _Atomic uint32_t bad_children;
static uint8_t *family;

/* Each child finds the pages as they were at its birth, and what it writes stays its own. */
static void raise_children(int number) {
    uint8_t *area = family + number * child_pages * page_size;
    meet();
    for (int i = 0; i < children; i++) {
        for (int page = 0; page < child_pages; page++) area[page * page_size] = i + page;
        pid_t child = fork();
        if (child == 0) {
            int sum = 0;
            for (int page = 0; page < child_pages; page++) {
                sum += area[page * page_size] == (uint8_t)(i + page);
                area[page * page_size] = 0xEE;
            }
            _exit(sum + number);
        }
        for (int page = 0; page < child_pages; page++) {
            if (area[page * page_size] != (uint8_t)(i + page)) atomic_fetch_add(&bad_children, 1);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)
            || WEXITSTATUS(status) != child_pages + number) {
            atomic_fetch_add(&bad_children, 1);
        }
    }
}

const char *fork_storm(void) {
    family = pages(threads * child_pages, PROT_READ | PROT_WRITE);
    bad_children = 0;
    in_threads(threads, raise_children);
    munmap(family, threads * child_pages * page_size);
    return bad_children ? "a child saw memory that was not its own, or died" : 0;
}

enum { sums = 8, terms = 12000 };
static struct { double scalar; long double extended; float packed[4]; uint64_t integer[2]; } sum[sums + 1];

/* The same sums in x87, SSE scalar and SSE vector registers, whatever interrupts them. */
static void add_up(int number) {
    double scalar = 0;
    long double extended = 0;
    typedef float lanes __attribute__((vector_size(16)));
    typedef uint64_t wide __attribute__((vector_size(16)));
    lanes packed = {0, 1, 2, 3};
    wide integer = {1, 2};
    for (int i = 1; i <= terms; i++) {
        scalar += 1.0 / i;
        extended += 1.0L / i;
        packed = packed * 0.999f + (lanes){i, i + 1, i + 2, i + 3} * 0.001f;
        integer = (integer << 3) ^ (integer >> 5) ^ (wide){i, i};
        if (i % 97 == 0) sched_yield();
    }
    sum[number].scalar = scalar;
    sum[number].extended = extended;
    memcpy(sum[number].packed, &packed, 16);
    memcpy(sum[number].integer, &integer, 16);
}

const char *floating_state(void) {
    memset(sum, 0, sizeof sum);
    add_up(sums);
    in_threads(sums, add_up);
    for (int i = 0; i < sums; i++) {
        if (memcmp(&sum[i], &sum[sums], sizeof sum[0])) return "a thread's registers changed under it";
    }
    return sum[0].scalar > 9.9 && sum[0].scalar < 10.1 ? 0 : "the sum is wrong";
}
