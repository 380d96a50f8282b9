/* Usage: workloads NAME COUNT             runs a workload of this program, after a short turn to warm up
          workloads run NAME COMMAND...    runs a command; its output is summed up
          workloads fill BYTES             writes text of a fixed sequence to standard output
   Prints "BEGIN NAME", then "END NAME NANOSECONDS SUM", each at its moment, so that a reader can take times,
   too. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "workloads.h"

void fail(const char *what) {
    printf("FAILED %s\n", what);
    exit(1);
}

uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

static void begin(const char *name) {
    printf("BEGIN %s\n", name);
    fflush(stdout);
    tcdrain(STDOUT_FILENO);
}

static void end(const char *name, uint64_t start, uint64_t sum) {
    printf("END %s %" PRIu64 " %016" PRIx64 "\n", name, now() - start, sum);
    fflush(stdout);
}

static uint64_t fnv(uint64_t sum, const unsigned char *bytes, ssize_t count) {
    for (ssize_t i = 0; i < count; i++) sum = (sum ^ bytes[i]) * UINT64_C(0x100000001B3);
    return sum;
}

static void run(const char *name, char **command) {
    int output[2], status = 0;
    unsigned char bytes[65536];
    uint64_t sum = UINT64_C(0xCBF29CE484222325);
    if (pipe(output)) fail("pipe");
    begin(name);
    uint64_t start = now();
    pid_t child = fork();
    if (child == 0) {
        dup2(output[1], STDOUT_FILENO);
        close(output[0]), close(output[1]);
        execvp(command[0], command);
        _exit(127);
    }
    close(output[1]);
    for (ssize_t count; (count = read(output[0], bytes, sizeof bytes)) > 0;) sum = fnv(sum, bytes, count);
    if (waitpid(child, &status, 0) != child || status) fail("the command failed");
    end(name, start, sum);
}

/* Words with a likely and an unlikely part, so that a compressor has something to do. */
static void fill(uint64_t count) {
    static const char *const words[] = {
        "guest ", "host ", "page ", "table ", "interrupt ", "the ", "of a ", "register, ", "clock;\n",
    };
    uint32_t seed = 1;
    for (uint64_t done = 0; done < count;) {
        char text[32];
        uint32_t number = next_random(&seed);
        int length = number % 5 ? snprintf(text, sizeof text, "%s", words[number / 5 % 9])
                                : snprintf(text, sizeof text, "%06" PRIx32 " ", number);
        if ((uint64_t)length > count - done) length = count - done;
        fwrite(text, 1, length, stdout);
        done += length;
    }
}

/* Two processes of a workload shall share a processor everywhere, as they do in a guest that has one. */
static void stay_on_one_processor(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    sched_setaffinity(0, sizeof set, &set);
}

int main(int count, char **words) {
    if (count < 3) fail("a word is missing");
    if (!strcmp(words[1], "run") && count > 3) return run(words[2], words + 3), 0;
    uint64_t turns = strtoull(words[2], 0, 10);
    if (!strcmp(words[1], "fill")) return fill(turns), 0;
    const struct workload *const lists[] = {
        integer_workloads, call_workloads, vector_workloads, memory_workloads, system_workloads,
    };
    stay_on_one_processor();
    for (unsigned i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (const struct workload *at = lists[i]; at->name; at++) {
            if (strcmp(at->name, words[1])) continue;
            at->run(turns / 16 + 1);
            begin(at->name);
            uint64_t start = now();
            uint64_t sum = at->run(turns);
            end(at->name, start, sum);
            return 0;
        }
    }
    fail("there is no such workload");
}
