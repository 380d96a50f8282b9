/* Atomic operations, and the order in which processors see each other's stores (Intel SDM vol. 3 §9.2). */
#include "torture.h"

enum { additions = 30000 };
static struct {
    _Atomic uint64_t added;
    _Atomic uint64_t exchanged;
    _Atomic uint32_t bits;
    _Atomic uint8_t byte;
    _Alignas(16) volatile uint64_t wide[2];
} shared;

static void count(int number) {
    uint32_t mask = 1u << number;
    meet();
    for (int i = 0; i < additions; i++) {
        atomic_fetch_add(&shared.added, 3);
        uint64_t old = atomic_load(&shared.exchanged);
        while (!atomic_compare_exchange_weak(&shared.exchanged, &old, old * 2 + 1 - old)) {}
        atomic_fetch_xor(&shared.bits, mask);
        atomic_fetch_add(&shared.byte, 1);
        // Both halves of 16 bytes at once.
        uint64_t low = shared.wide[0], high = shared.wide[1];
        char done = 0;
        while (!done) {
            __asm__ volatile("lock cmpxchg16b %1; sete %0"
                             : "=q"(done), "+m"(shared.wide), "+a"(low), "+d"(high)
                             : "b"(low + 1), "c"(high + low + 1) : "cc", "memory");
        }
    }
}

const char *counters(void) {
    uint64_t all = (uint64_t)threads * additions;
    memset((void *)&shared, 0, sizeof shared);
    in_threads(threads, count);
    if (shared.added != 3 * all) return "lost additions";
    if (shared.exchanged != all) return "lost exchanges";
    if (shared.bits != 0) return "lost flips of bits";
    if (shared.byte != (uint8_t)all) return "lost additions to a byte";
    if (shared.wide[0] != all) return "lost exchanges of 16 bytes";
    if (shared.wide[1] != all * (all + 1) / 2) return "torn exchanges of 16 bytes";
    return 0;
}

enum { split_additions = 300 };
static uint8_t *split_area;

static void count_split(int number) {
    uint64_t *line = (uint64_t *)(split_area + 64 - 3), *page = (uint64_t *)(split_area + page_size - 5);
    (void)number;
    meet();
    for (int i = 0; i < split_additions; i++) {
        __asm__ volatile("lock addq $1, %0" : "+m"(*line)::"cc");
        __asm__ volatile("lock addq $0x1000001, %0" : "+m"(*page)::"cc");
    }
}

/* Locked operations that cross a cache line, and a page. */
const char *split_counters(void) {
    uint64_t all = (uint64_t)threads * split_additions, line, page;
    split_area = pages(2, PROT_READ | PROT_WRITE);
    in_threads(threads, count_split);
    memcpy(&line, split_area + 64 - 3, 8);
    memcpy(&page, split_area + page_size - 5, 8);
    munmap(split_area, 2 * page_size);
    if (line != all) return "lost additions across a line";
    return page == all * 0x1000001 ? 0 : "lost additions across a page";
}

enum { split_turns = 150 };
static uint64_t guarded;

/* A lock across a page that is taken by XCHG and given back by a plain store: one that got lost in between
   would leave it taken for ever. */
static void take_and_give(int number) {
    uint64_t *lock = (uint64_t *)(split_area + page_size - 5);
    (void)number;
    meet();
    for (int i = 0; i < split_turns; i++) {
        for (uint64_t taken = 1; taken;) {
            __asm__ volatile("xchgq %0, %1" : "+r"(taken), "+m"(*lock)::"memory");
            if (taken) sched_yield();
        }
        guarded++;
        __asm__ volatile("movq $0, %0" : "=m"(*lock)::"memory");
    }
}

const char *split_lock(void) {
    split_area = pages(2, PROT_READ | PROT_WRITE);
    guarded = 0;
    in_threads(threads, take_and_give);
    munmap(split_area, 2 * page_size);
    return guarded == (uint64_t)threads * split_turns ? 0 : "two threads had the lock";
}

enum { slots = 20000 };
static struct {
    uint32_t left[slots], right[slots], saw_right[slots], saw_left[slots];
} buffers;

static void store_and_look(int number) {
    volatile uint32_t *mine = number ? buffers.right : buffers.left;
    volatile uint32_t *other = number ? buffers.left : buffers.right;
    uint32_t *saw = number ? buffers.saw_left : buffers.saw_right;
    for (int i = 0; i < slots; i++) {
        if (i % 100 == 0) meet();
        mine[i] = 1;
        if (i & 1) {
            __asm__ volatile("mfence" ::: "memory");
        } else {
            __asm__ volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");
        }
        saw[i] = other[i];
    }
}

/* Each of two processors stores, fences, and looks at the other's: one of them must see a store. */
const char *store_buffers(void) {
    memset(&buffers, 0, sizeof buffers);
    in_threads(2, store_and_look);
    for (int i = 0; i < slots; i++) {
        if (!buffers.saw_left[i] && !buffers.saw_right[i]) return "a fence let a load pass a store";
    }
    return 0;
}

enum { letters = 60000 };
static volatile uint64_t letter[8], arrived, late;

static void send_or_receive(int number) {
    if (number == 0) {
        for (uint64_t i = 1; i <= letters; i++) {
            for (int word = 0; word < 8; word++) letter[word] = i;
            arrived = i;
        }
        return;
    }
    for (uint64_t seen = 0; seen < letters;) {
        seen = arrived;
        __asm__ volatile("" ::: "memory");
        for (int word = 7; word >= 0; word--) {
            if (letter[word] < seen) late++;
        }
        if (number > 1) __asm__ volatile("pause");
    }
}

/* Plain stores arrive in order: whoever sees the flag sees the letter. */
const char *messages(void) {
    memset((void *)letter, 0, sizeof letter);
    arrived = late = 0;
    in_threads(3, send_or_receive);
    return late ? "stores arrived out of order" : 0;
}
