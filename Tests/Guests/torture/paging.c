/* Changes of page tables that other processors must see before the system call returns. */
#include "torture.h"
#include <signal.h>

enum { writers = threads - 1, rounds = 60 };
static volatile uint64_t *area;
static _Atomic int is_writable, is_over;
static _Atomic uint64_t faults, stores_too_late;

/* A store to the protected page waits here until it may go on. */
static void wait_until_writable(int signal) {
    (void)signal;
    atomic_fetch_add(&faults, 1);
    while (!atomic_load(&is_writable)) __asm__ volatile("pause");
}

static void write_or_protect(int number) {
    if (number > 0) {
        while (!atomic_load(&is_over)) area[number]++;
        return;
    }
    for (int round = 0; round < rounds; round++) {
        usleep(300);
        atomic_store(&is_writable, 0);
        mprotect((void *)area, page_size, PROT_READ);
        uint64_t before[threads], after[threads];
        for (int i = 1; i < threads; i++) before[i] = area[i];
        usleep(200);
        for (int i = 1; i < threads; i++) {
            after[i] = area[i];
            if (after[i] != before[i]) atomic_fetch_add(&stores_too_late, 1);
        }
        mprotect((void *)area, page_size, PROT_READ | PROT_WRITE);
        atomic_store(&is_writable, 1);
    }
    atomic_store(&is_over, 1);
}

const char *protection(void) {
    struct sigaction action = {.sa_handler = wait_until_writable};
    area = pages(1, PROT_READ | PROT_WRITE);
    faults = stores_too_late = is_over = 0;
    is_writable = 1;
    sigaction(SIGSEGV, &action, 0);
    in_threads(threads, write_or_protect);
    signal(SIGSEGV, SIG_DFL);
    munmap((void *)area, page_size);
    if (stores_too_late) return "a store reached a page after it was protected";
    return faults ? 0 : "no store met the protection";
}

static volatile uint64_t *window;
/* Twice the content of the page; odd while it changes. */
static _Atomic uint64_t generation;
static _Atomic uint64_t stale, looks;

static void look_or_remap(int number) {
    if (number > 0) {
        while (!atomic_load(&is_over)) {
            uint64_t before = atomic_load(&generation), value = *window;
            if (before % 2 || before != atomic_load(&generation)) continue;
            atomic_fetch_add(&looks, 1);
            if (value != before / 2) atomic_fetch_add(&stale, 1);
        }
        return;
    }
    for (uint64_t next = 1; next <= 300; next++) {
        uint64_t *fresh = pages(1, PROT_READ | PROT_WRITE);
        *fresh = next;
        atomic_store(&generation, 2 * next - 1);
        void *moved = mremap(fresh, page_size, page_size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)window);
        if (moved != (void *)window) give_up("mremap");
        atomic_store(&generation, 2 * next);
        if (next % 4 == 0) usleep(100);
    }
    atomic_store(&is_over, 1);
}

/* A page is replaced by another: whoever looks afterwards sees the new one. */
const char *remapping(void) {
    window = pages(1, PROT_READ | PROT_WRITE);
    generation = stale = looks = is_over = 0;
    in_threads(threads, look_or_remap);
    munmap((void *)window, page_size);
    if (stale) return "a processor saw a page that was gone";
    return looks ? 0 : "nobody looked";
}
