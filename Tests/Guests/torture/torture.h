/* What the parts of the torture program share. Each part checks what it did and says so in one line,
   "PASS part" or "FAIL part what"; the program's status is the number of parts that failed. */
#pragma once
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { page_size = 4096, threads = 4 };

/* Returns NULL when all is well, else what is wrong. */
typedef const char *part(void);
part counters, split_counters, split_lock, store_buffers, messages;
part futexes, fork_storm, floating_state;
part protection, remapping;
part patched_code, own_code, aliased_code;

/* Ends the program: the test itself cannot go on. */
_Noreturn void give_up(const char *what);
/* Runs `body` with the numbers from 0 on in as many threads, each tied to a processor of its own when there
   are enough, and waits for all. */
void in_threads(int count, void (*body)(int number));
/* All threads of one `in_threads` meet; after it they run at once. */
void meet(void);
/* Fresh pages, each byte zero. */
void *pages(int count, int protection);
