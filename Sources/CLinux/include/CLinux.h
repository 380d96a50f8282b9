// GNU-only and variadic system calls for Swift. Prototypes only; bodies are in CLinux.c.
#ifndef OSPITE_CLINUX_H
#define OSPITE_CLINUX_H
#include <stddef.h>
#include <stdint.h>

/// All return -1 and set errno on failure, like the calls they name.
int ospite_memfd_create(const char *name, unsigned int flags);
int ospite_open(const char *path, int flags, unsigned int mode);
int ospite_fcntl(int fd, int command, long argument);
int ospite_ioctl(int fd, unsigned long request, void *argument);
long ospite_syscall6(long number, long a, long b, long c, long d, long e, long f);
int ospite_set_thread_name(const char *name);
int ospite_get_errno(void);

#endif
