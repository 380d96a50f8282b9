/* Code that changes: by another processor (Intel SDM vol. 3 §9.1.3, with a serializing instruction), by
   itself, and through another address of the same page. */
#include "torture.h"

typedef uint32_t function(void);

/* mov eax, value; ret, with the value at a multiple of four. */
static uint8_t *write_function(uint8_t *at, uint32_t value) {
    static const uint8_t head[] = {0x0F, 0x1F, 0x00, 0xB8};
    memcpy(at, head, 4);
    memcpy(at + 4, &value, 4);
    at[8] = 0xC3;
    return at;
}

static void serialize(void) {
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}

enum { patches = 1500 };
static uint8_t *code, *writable;
static _Atomic uint32_t begun, finished;
static _Atomic uint64_t wrong, calls;

/* Calls between two looks at the writer's progress return something between them. */
static void patch_or_call(int number) {
    if (number == 0) {
        for (uint32_t value = 1; value <= patches; value++) {
            atomic_store(&begun, value);
            atomic_store((_Atomic uint32_t *)(writable + 4), value);
            atomic_store(&finished, value);
            if (value % 8 == 0) usleep(20);
        }
        return;
    }
    for (uint32_t least = 0; least < patches;) {
        least = atomic_load(&finished);
        serialize();
        uint32_t value = ((function *)code)();
        uint32_t most = atomic_load(&begun);
        atomic_fetch_add(&calls, 1);
        if (value < least || value > most) atomic_fetch_add(&wrong, 1);
    }
}

static const char *patch(void) {
    begun = finished = 0;
    wrong = calls = 0;
    write_function(writable, 0);
    in_threads(threads, patch_or_call);
    if (((function *)code)() != patches) return "the last patch is not there";
    return wrong ? "a call ran code that was no longer, or not yet, there" : calls ? 0 : "nobody called";
}

const char *patched_code(void) {
    code = writable = pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
    const char *problem = patch();
    munmap(code, page_size);
    return problem;
}

/* The same page at two addresses: one to write, one to run. */
const char *aliased_code(void) {
    int file = memfd_create("code", 0);
    if (file < 0 || ftruncate(file, page_size)) give_up("memfd_create");
    writable = mmap(0, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    code = mmap(0, page_size, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    close(file);
    if (writable == MAP_FAILED || code == MAP_FAILED) give_up("mmap");
    const char *problem = patch();
    munmap(code, page_size);
    munmap(writable, page_size);
    return problem;
}

static _Atomic uint64_t own_errors;

/* Each thread writes and runs functions of its own, in a page that it shares with the other threads'; a jump
   is all that it takes to run what one has just written. */
static void write_and_run(int number) {
    uint8_t *mine = code + number * 128;
    meet();
    for (uint32_t i = 0; i < 3000; i++) {
        uint32_t value = i * 2654435761u + number;
        uint8_t *at = write_function(mine + i % 8 * 16, value);
        if (((function *)at)() != value) atomic_fetch_add(&own_errors, 1);
        // The last but two functions are still what they were.
        if (i > 8 && i % 64 == 0) {
            uint32_t old = (i - 2) * 2654435761u + number;
            if (((function *)(mine + (i - 2) % 8 * 16))() != old) atomic_fetch_add(&own_errors, 1);
        }
    }
}

const char *own_code(void) {
    code = pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
    own_errors = 0;
    in_threads(threads, write_and_run);
    munmap(code, page_size);
    return own_errors ? "a thread did not run what it wrote" : 0;
}
