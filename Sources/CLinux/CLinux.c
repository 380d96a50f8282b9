#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int ospite_memfd_create(const char *name, unsigned int flags) { return memfd_create(name, flags); }
int ospite_open(const char *path, int flags, unsigned int mode) { return open(path, flags, mode); }
int ospite_fcntl(int fd, int command, long argument) { return fcntl(fd, command, argument); }
int ospite_ioctl(int fd, unsigned long request, void *argument) { return ioctl(fd, request, argument); }
long ospite_syscall6(long number, long a, long b, long c, long d, long e, long f) {
    return syscall(number, a, b, c, d, e, f);
}
int ospite_set_thread_name(const char *name) { return pthread_setname_np(pthread_self(), name); }
int ospite_get_errno(void) { return errno; }
