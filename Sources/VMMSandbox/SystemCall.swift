/// The system calls that our lists name, with their x86-64 numbers (arch/x86/entry/syscalls/syscall_64.tbl).
public enum SystemCall: UInt32, Sendable, CaseIterable {
    case read = 0, write = 1, open = 2, close = 3, fstat = 5, poll = 7, lseek = 8, mmap = 9
    case mprotect = 10, munmap = 11, brk = 12, rtSigaction = 13, rtSigprocmask = 14, rtSigreturn = 15
    case ioctl = 16, pread64 = 17, pwrite64 = 18, readv = 19, writev = 20
    case schedYield = 24, mremap = 25, madvise = 28
    case nanosleep = 35, getpid = 39, socket = 41
    case sendmsg = 46, recvmsg = 47, shutdown = 48, sendto = 44, recvfrom = 45
    case clone = 56, execve = 59, exit = 60, fcntl = 72, fsync = 74, fdatasync = 75, ftruncate = 77
    case sigaltstack = 131, prctl = 157, gettid = 186, futex = 202
    case schedSetaffinity = 203, schedGetaffinity = 204
    case restartSyscall = 219, timerCreate = 222, timerSettime = 223, timerDelete = 226
    case clockGettime = 228, clockGetres = 229, clockNanosleep = 230, exitGroup = 231
    case epollWait = 232, epollCtl = 233, tgkill = 234, openat = 257, newfstatat = 262
    case ppoll = 271, setRobustList = 273, epollPwait = 281, timerfdCreate = 283, fallocate = 285
    case timerfdSettime = 286, timerfdGettime = 287, accept4 = 288, signalfd4 = 289, eventfd2 = 290
    case epollCreate1 = 291, pipe2 = 293, preadv = 295, pwritev = 296
    case seccomp = 317, getrandom = 318, memfdCreate = 319, execveat = 322, membarrier = 324
    case preadv2 = 327, pwritev2 = 328, rseq = 334, ioUringSetup = 425, ioUringEnter = 426
    case ioUringRegister = 427, clone3 = 435, openat2 = 437, epollPwait2 = 441
}
