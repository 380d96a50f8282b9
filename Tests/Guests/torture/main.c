/* What four processors must get right together: atomic operations, the order of memory, waiting and waking,
   fork, floating-point state, page protection that other processors see in time, and code that changes. */
#include "torture.h"
#include <sched.h>
#include <stdarg.h>

void give_up(const char *what) {
    printf("FAIL torture %s\n", what);
    exit(100);
}

static pthread_barrier_t barrier;
static void (*thread_body)(int);

static void *run_thread(void *number) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((intptr_t)number % sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof set, &set);
    thread_body((int)(intptr_t)number);
    return 0;
}

void in_threads(int count, void (*body)(int)) {
    pthread_t thread[64];
    if (count > 64 || pthread_barrier_init(&barrier, 0, count)) give_up("threads");
    thread_body = body;
    for (intptr_t i = 0; i < count; i++) {
        if (pthread_create(&thread[i], 0, run_thread, (void *)i)) give_up("pthread_create");
    }
    for (int i = 0; i < count; i++) pthread_join(thread[i], 0);
    pthread_barrier_destroy(&barrier);
}

void meet(void) { pthread_barrier_wait(&barrier); }

void *pages(int count, int protection) {
    void *area = mmap(0, count * page_size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) give_up("mmap");
    return area;
}

static const struct { const char *name; part *run; } parts[] = {
    {"counters", counters}, {"split counters", split_counters}, {"split lock", split_lock},
    {"store buffers", store_buffers}, {"messages", messages}, {"futexes", futexes}, {"fork storm", fork_storm},
    {"floating state", floating_state}, {"protection", protection}, {"remapping", remapping},
    {"patched code", patched_code}, {"own code", own_code}, {"aliased code", aliased_code},
};

int main(void) {
    int failed = 0;
    setvbuf(stdout, 0, _IOLBF, 0);
    for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const char *problem = parts[i].run();
        if (problem) {
            failed++;
            printf("FAIL %s: %s\n", parts[i].name, problem);
        } else {
            printf("PASS %s\n", parts[i].name);
        }
    }
    printf("DONE %u\n", (unsigned)(sizeof parts / sizeof parts[0]) - failed);
    return failed;
}
