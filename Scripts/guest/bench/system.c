/* What the guest's kernel does for a program. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "workloads.h"

static uint64_t call(uint64_t count) {
    long parent = getppid();
    for (uint64_t i = 0; i < count; i++) {
        if (syscall(SYS_getppid) != parent) fail("the parent changed");
    }
    return count;
}

/* One operation is the first store to a page of 4 KiB, with its share of mmap and munmap. */
static uint64_t fault(uint64_t count) {
    enum { pages = 2048, size = 4096 };
    for (uint64_t done = 0; done < count; done += pages) {
        char *area = mmap(0, pages * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area == MAP_FAILED) fail("mmap");
        madvise(area, pages * size, MADV_NOHUGEPAGE);
        for (int i = 0; i < pages; i++) {
            if (area[i * size + 8]) fail("a new page is not empty");
            area[i * size] = 1;
        }
        munmap(area, pages * size);
    }
    return count;
}

static void wait_for(pid_t child) {
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status) fail("a child failed");
}

static uint64_t fork_and_wait(uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        wait_for(child);
    }
    return count;
}

/* The program that ends at once lies beside this one. */
static uint64_t fork_and_exec(uint64_t count) {
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 16);
    if (length <= 0) fail("readlink");
    path[length] = 0;
    strcpy(strrchr(path, '/'), "/nothing");
    char *const arguments[] = {path, 0};
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            execv(path, arguments);
            _exit(1);
        }
        wait_for(child);
    }
    return count;
}

/* One operation is a byte to another process and back. */
static uint64_t round_trip(uint64_t count) {
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back)) fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        for (uint64_t i = 0; i < count; i++) {
            if (read(there[0], &byte, 1) != 1) _exit(1);
            byte++;
            if (write(back[1], &byte, 1) != 1) _exit(1);
        }
        _exit(0);
    }
    for (uint64_t i = 0; i < count; i++) {
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) fail("the pipe broke");
    }
    wait_for(child);
    close(there[0]), close(there[1]), close(back[0]), close(back[1]);
    return count << 8 | (uint8_t)byte;
}

const struct workload system_workloads[] = {
    {"syscall", call}, {"fault", fault}, {"fork", fork_and_wait}, {"exec", fork_and_exec},
    {"pipe", round_trip}, {0, 0},
};
