#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

int ospite_memfd_create(const char *name, unsigned int flags) { return memfd_create(name, flags); }
void *ospite_alias_memory(void *memory, size_t size) { return mremap(memory, 0, size, MREMAP_MAYMOVE); }
int ospite_open(const char *path, int flags, unsigned int mode) { return open(path, flags, mode); }
int ospite_fcntl(int fd, int command, long argument) { return fcntl(fd, command, argument); }
int ospite_ioctl(int fd, unsigned long request, void *argument) { return ioctl(fd, request, argument); }
long ospite_syscall6(long number, long a, long b, long c, long d, long e, long f) {
    return syscall(number, a, b, c, d, e, f);
}
int ospite_set_thread_name(const char *name) { return pthread_setname_np(pthread_self(), name); }
int ospite_get_errno(void) { return errno; }

int ospite_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

int ospite_epoll_control(int epoll, int operation, int fd, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data.u64 = token};
    return epoll_ctl(epoll, operation, fd, &event);
}

int ospite_epoll_wait(int epoll, uint64_t *tokens, uint32_t *events, int capacity, int milliseconds) {
    struct epoll_event ready[64];
    int count = epoll_wait(epoll, ready, capacity < 64 ? capacity : 64, milliseconds);
    for (int i = 0; i < count; i++) {
        tokens[i] = ready[i].data.u64;
        events[i] = ready[i].events;
    }
    return count;
}

int ospite_futex_wait(const void *word, uint32_t expected, uint64_t deadline) {
    struct timespec time = {.tv_sec = deadline / 1000000000u, .tv_nsec = deadline % 1000000000u};
    long result = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected,
                          deadline == UINT64_MAX ? NULL : &time, NULL, FUTEX_BITSET_MATCH_ANY);
    return result == 0 ? 0 : errno;
}

void ospite_futex_wake(const void *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

int ospite_event_descriptor(uint64_t initial) {
    return eventfd((unsigned int)initial, EFD_CLOEXEC | EFD_NONBLOCK);
}
int ospite_timer_descriptor(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK); }

int ospite_timer_set(int fd, uint64_t deadline, uint64_t interval) {
    struct itimerspec time = {
        .it_value = {.tv_sec = deadline / 1000000000u, .tv_nsec = deadline % 1000000000u},
        .it_interval = {.tv_sec = interval / 1000000000u, .tv_nsec = interval % 1000000000u}};
    return timerfd_settime(fd, TFD_TIMER_ABSTIME, &time, NULL);
}

int ospite_signal_descriptor(const int *signals, int count) {
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < count; i++) sigaddset(&set, signals[i]);
    int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int ospite_signal_next(int fd) {
    struct signalfd_siginfo information;
    for (;;) {
        ssize_t count = read(fd, &information, sizeof information);
        if (count == (ssize_t)sizeof information) return (int)information.ssi_signo;
        if (count < 0 && errno == EINTR) continue;
        return count < 0 && errno != EAGAIN ? -1 : 0;
    }
}

void ospite_signal_ignore(int number) { signal(number, SIG_IGN); }

static void do_nothing(int number) { (void)number; }

int ospite_signal_interrupts(int number) {
    struct sigaction action = {.sa_handler = do_nothing};
    return sigaction(number, &action, NULL);
}

int ospite_signal_mask(int number, int blocked) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    return pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

void ospite_signal_consume(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    struct timespec none = {0, 0};
    while (sigtimedwait(&set, NULL, &none) < 0 && errno == EINTR) {}
}

int ospite_thread_id(void) { return (int)syscall(SYS_gettid); }

int ospite_set_affinity(const int *cpus, int count) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < count; i++) {
        if (cpus[i] < 0 || cpus[i] >= CPU_SETSIZE) {
            errno = EINVAL;
            return -1;
        }
        CPU_SET(cpus[i], &set);
    }
    return sched_setaffinity(0, sizeof set, &set);
}

enum { descriptors_per_message = 64 };

long ospite_send_descriptors(
    int socket, const void *bytes, size_t count, const int *fds, int descriptorCount) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * descriptors_per_message)];
    } control;
    if (descriptorCount < 0 || descriptorCount > descriptors_per_message) {
        errno = EINVAL;
        return -1;
    }
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (descriptorCount > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptorCount);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * descriptorCount);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * descriptorCount);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

long ospite_receive_descriptors(
    int socket, void *bytes, size_t capacity, int *fds, int *descriptorCount, int *truncated) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * descriptors_per_message)];
    } control;
    int room = *descriptorCount;
    *descriptorCount = 0;
    *truncated = 0;
    struct iovec vector = {.iov_base = bytes, .iov_len = capacity};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    long received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (received < 0) return received;
    if (message.msg_flags & MSG_CTRUNC) *truncated = 1;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        int count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + sizeof(int) * i, sizeof fd);
            if (*descriptorCount < room) {
                fds[(*descriptorCount)++] = fd;
            } else {
                close(fd);
                *truncated = 1;
            }
        }
    }
    return received;
}

int ospite_peer_credentials(int socket, uint32_t *user, int32_t *process) {
    struct ucred credentials;
    socklen_t size = sizeof credentials;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0) return -1;
    *user = credentials.uid;
    *process = credentials.pid;
    return 0;
}

int ospite_lock_file(int fd, int exclusive) {
    short type = exclusive < 0 ? F_UNLCK : exclusive ? F_WRLCK : F_RDLCK;
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &lock);
}

int ospite_fallocate(int fd, int mode, uint64_t offset, uint64_t length) {
    return fallocate(fd, mode, (off_t)offset, (off_t)length);
}

long ospite_read_without_waiting(int fd, const void *vectors, int count, uint64_t offset) {
    return preadv2(fd, vectors, count, (off_t)offset, RWF_NOWAIT);
}

long ospite_write_without_waiting(int fd, const void *vectors, int count, uint64_t offset) {
    return pwritev2(fd, vectors, count, (off_t)offset, RWF_NOWAIT);
}

int ospite_file_facts(int fd, uint64_t *size, int *kind, int *access) {
    struct stat facts;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &facts) < 0) return -1;
    *access = flags & (O_ACCMODE | O_DIRECT);
    *size = (uint64_t)facts.st_size;
    *kind = S_ISREG(facts.st_mode) ? 0 : S_ISBLK(facts.st_mode) ? 1 : 2;
    return *kind == 1 ? ioctl(fd, BLKGETSIZE64, size) : 0;
}

_Static_assert(sizeof(struct termios) <= 128, "terminal settings fit the caller's buffer");

int ospite_terminal_raw(int fd, void *saved) {
    struct termios settings;
    if (tcgetattr(fd, &settings) < 0) return -1;
    memcpy(saved, &settings, sizeof settings);
    cfmakeraw(&settings);
    // Line feeds of our own messages still return the carriage.
    settings.c_oflag |= OPOST;
    return tcsetattr(fd, TCSANOW, &settings);
}

int ospite_terminal_restore(int fd, const void *saved) {
    struct termios settings;
    memcpy(&settings, saved, sizeof settings);
    return tcsetattr(fd, TCSANOW, &settings);
}
