// GNU-only and variadic system calls for Swift. Prototypes only; bodies are in CLinux.c.
#ifndef OSPITE_CLINUX_H
#define OSPITE_CLINUX_H
#include <stddef.h>
#include <stdint.h>

/// All return -1 and set errno on failure, like the calls they name, unless they say otherwise.
int ospite_memfd_create(const char *name, unsigned int flags);
/* Maps the `size` bytes of shared memory at `memory` once more; MAP_FAILED with errno when refused. */
void *ospite_alias_memory(void *memory, size_t size);
int ospite_open(const char *path, int flags, unsigned int mode);
int ospite_fcntl(int fd, int command, long argument);
int ospite_ioctl(int fd, unsigned long request, void *argument);
long ospite_syscall6(long number, long a, long b, long c, long d, long e, long f);
int ospite_set_thread_name(const char *name);
int ospite_get_errno(void);

/// epoll_create1 with close-on-exec.
int ospite_epoll_create(void);
/// epoll_ctl; `operation` is EPOLL_CTL_ADD (1), DEL (2) or MOD (3).
int ospite_epoll_control(int epoll, int operation, int fd, uint32_t events, uint64_t token);
/// epoll_wait into two parallel arrays of at most 64 entries; -1 milliseconds waits for ever.
int ospite_epoll_wait(int epoll, uint64_t *tokens, uint32_t *events, int capacity, int milliseconds);

/// FUTEX_WAIT_BITSET, private, until `deadline` on CLOCK_MONOTONIC in nanoseconds (UINT64_MAX: none).
/// Returns 0, or the errno value (EAGAIN, EINTR, ETIMEDOUT): never touches errno's meaning for callers.
int ospite_futex_wait(const void *word, uint32_t expected, uint64_t deadline);
void ospite_futex_wake(const void *word, int count);

/// Non-blocking, close-on-exec descriptors.
int ospite_event_descriptor(uint64_t initial);
int ospite_timer_descriptor(void);
/// Arms a timer descriptor at an absolute CLOCK_MONOTONIC time, then every `interval`; 0 and 0 disarm.
int ospite_timer_set(int fd, uint64_t deadline, uint64_t interval);
/// Blocks the signals on the calling thread and returns a descriptor that reports them.
int ospite_signal_descriptor(const int *signals, int count);
/// The number of the next signal on a signal descriptor, 0 when there is none.
int ospite_signal_next(int fd);
void ospite_signal_ignore(int signal);
/// Installs a handler that does nothing and does not restart system calls.
int ospite_signal_interrupts(int signal);
/// Blocks or unblocks one signal on the calling thread; returns an errno value.
int ospite_signal_mask(int signal, int blocked);
/// Clears a signal that is pending on the calling thread and blocked.
void ospite_signal_consume(int signal);
int ospite_thread_id(void);
/// Restricts the calling thread to the given CPUs.
int ospite_set_affinity(const int *cpus, int count);

/// One message of at most `count` bytes with `descriptorCount` <= 64 descriptors (SCM_RIGHTS).
long ospite_send_descriptors(
    int socket, const void *bytes, size_t count, const int *fds, int descriptorCount);
/// Receives one; `*descriptorCount` goes in as the capacity (<= 64) and comes out as the number received.
/// `*truncated` is set when the kernel had to drop descriptors or control data.
long ospite_receive_descriptors(
    int socket, void *bytes, size_t capacity, int *fds, int *descriptorCount, int *truncated);
/// The peer's user and process of a connected Unix socket.
int ospite_peer_credentials(int socket, uint32_t *user, int32_t *process);

/// An open-file-description lock on the whole file, without waiting.
int ospite_lock_file(int fd, int exclusive);
int ospite_fallocate(int fd, int mode, uint64_t offset, uint64_t length);
/// preadv2 and pwritev2 with RWF_NOWAIT: EAGAIN instead of waiting for a disk. `vectors` are struct iovec.
long ospite_read_without_waiting(int fd, const void *vectors, int count, uint64_t offset);
long ospite_write_without_waiting(int fd, const void *vectors, int count, uint64_t offset);
/// Size, kind (0 regular, 1 block device, 2 other) and access mode (O_ACCMODE
/// and O_DIRECT bits) of an open file.
int ospite_file_facts(int fd, uint64_t *size, int *kind, int *access);
/// Puts a terminal into raw mode after saving its settings in `saved` (at least 128 bytes).
int ospite_terminal_raw(int fd, void *saved);
int ospite_terminal_restore(int fd, const void *saved);

#endif
