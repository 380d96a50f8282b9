#define _GNU_SOURCE
#include "COracle.h"
#include <asm/ldt.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

// The gate's layout: the way out addresses it absolutely, for it has no free register.
struct gate {
    struct oracle_state result;   // 0
    uint64_t saved_rsp;           // 1024
    uint64_t saved_fs_base;       // 1032
    uint64_t saved_gs_base;       // 1040
    uint64_t exit_address;        // 1048, what the 64-bit ending jumps to
    uint64_t extended;            // 1056
    uint64_t inside;              // 1064
};
_Static_assert(sizeof(struct oracle_state) == 1024, "the assembly below counts on it");
_Static_assert(offsetof(struct oracle_state, xsave) == 192, "the assembly below counts on it");
_Static_assert(offsetof(struct gate, exit_address) == ORACLE_EXIT_POINTER, "our side counts on it");
_Static_assert(offsetof(struct gate, inside) == 1064, "the assembly below counts on it");

#define GATE ((volatile struct gate *)(uintptr_t)ORACLE_GATE)
#define TEXT(x) #x
#define STRING(x) TEXT(x)
// Offsets in the gate.
#define AT(offset) "0x2DB70000+" STRING(offset)

void oracle_enter(const struct oracle_state *input, uint64_t extended);
void oracle_leave(void);
void oracle_resume(void);

// SAFETY of the whole: DS, ES and SS do not matter in 64-bit mode, FS (thread-local storage) is put back
// before anything else runs, and signals use their own stack.
__asm__(
    ".text\n"
    ".globl oracle_enter\n"
    "oracle_enter:\n"
    "  pushq %rbx\n  pushq %rbp\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, " AT(1024) "\n"
    "  rdfsbase %rax\n  movq %rax, " AT(1032) "\n"
    "  rdgsbase %rax\n  movq %rax, " AT(1040) "\n"
    "  movq %rsi, " AT(1056) "\n"
    "  testq %rsi, %rsi\n  jz 1f\n"
    "  movl $7, %eax\n  xorl %edx, %edx\n  xrstor64 192(%rdi)\n"
    "1:\n"
    "  movw 160(%rdi), %ax\n  movw %ax, %es\n"
    "  movw 166(%rdi), %ax\n  movw %ax, %ds\n"
    "  movw 168(%rdi), %ax\n  movw %ax, %fs\n"
    "  movw 170(%rdi), %ax\n  movw %ax, %gs\n"
    "  cmpw $0x33, 162(%rdi)\n  jne 2f\n"
    "  movq 144(%rdi), %rax\n  wrfsbase %rax\n"
    "  movq 152(%rdi), %rax\n  wrgsbase %rax\n"
    "2:\n"
    "  movq $1, " AT(1064) "\n"
    "  movl $0x2DB70F00, %esp\n"
    "  movzwl 164(%rdi), %eax\n  pushq %rax\n"
    "  pushq 32(%rdi)\n"
    "  pushq 136(%rdi)\n"
    "  movzwl 162(%rdi), %eax\n  pushq %rax\n"
    "  pushq 128(%rdi)\n"
    "  movq 0(%rdi), %rax\n  movq 8(%rdi), %rcx\n  movq 16(%rdi), %rdx\n  movq 24(%rdi), %rbx\n"
    "  movq 40(%rdi), %rbp\n  movq 48(%rdi), %rsi\n"
    "  movq 64(%rdi), %r8\n  movq 72(%rdi), %r9\n  movq 80(%rdi), %r10\n  movq 88(%rdi), %r11\n"
    "  movq 96(%rdi), %r12\n  movq 104(%rdi), %r13\n  movq 112(%rdi), %r14\n  movq 120(%rdi), %r15\n"
    "  movq 56(%rdi), %rdi\n"
    "  iretq\n"
    ".globl oracle_leave\n"
    "oracle_leave:\n"
    "  movq %rax, " AT(0) "\n  movq %rcx, " AT(8) "\n  movq %rdx, " AT(16) "\n  movq %rbx, " AT(24) "\n"
    "  movq %rsp, " AT(32) "\n  movq %rbp, " AT(40) "\n  movq %rsi, " AT(48) "\n  movq %rdi, " AT(56) "\n"
    "  movq %r8, " AT(64) "\n  movq %r9, " AT(72) "\n  movq %r10, " AT(80) "\n  movq %r11, " AT(88) "\n"
    "  movq %r12, " AT(96) "\n  movq %r13, " AT(104) "\n  movq %r14, " AT(112) "\n  movq %r15, " AT(120) "\n"
    "  movl $0x2DB70F00, %esp\n"
    "  pushfq\n  popq " AT(136) "\n"
    "  pushq $2\n  popfq\n"
    "  movl $0x100, " AT(176) "\n"
    "  movw %es, " AT(160) "\n  movw %ss, " AT(164) "\n  movw %ds, " AT(166) "\n"
    "  movw %fs, " AT(168) "\n  movw %gs, " AT(170) "\n"
    "  rdfsbase %rax\n  movq %rax, " AT(144) "\n"
    "  rdgsbase %rax\n  movq %rax, " AT(152) "\n"
    "  cmpq $0, " AT(1056) "\n  je oracle_resume\n"
    "  movl $7, %eax\n  xorl %edx, %edx\n  movl $0x2DB70000, %edi\n  xsave64 192(%rdi)\n"
    ".globl oracle_resume\n"
    "oracle_resume:\n"
    "  movl $0x2b, %eax\n  movw %ax, %ss\n"
    "  movq " AT(1024) ", %rsp\n"
    "  pushq $2\n  popfq\n"
    "  xorl %eax, %eax\n  movw %ax, %ds\n  movw %ax, %es\n  movw %ax, %fs\n  movw %ax, %gs\n"
    "  movq " AT(1032) ", %rax\n  wrfsbase %rax\n"
    "  movq " AT(1040) ", %rax\n  wrgsbase %rax\n"
    "  movq $0, " AT(1064) "\n"
    "  fninit\n  vzeroupper\n  pushq $0x1F80\n  ldmxcsr (%rsp)\n  popq %rax\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbp\n  popq %rbx\n"
    "  ret\n");

static volatile uint64_t *watched_progress;
static uint64_t *watched_limit;
static uint32_t *watched_attention;
static uint32_t attention_bits;
static uint64_t last_progress;
static uint8_t *code_alias;

static inline void copy(volatile void *to, const void *from, uint64_t count) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

// Neither this function nor its caller may use thread-local storage or a library: FS is the test's.
static __attribute__((noreturn)) void record_and_resume(ucontext_t *context, uint32_t vector) {
    static const uint8_t order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    volatile struct oracle_state *result = &GATE->result;
    const greg_t *registers = context->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++) result->gpr[i] = (uint64_t)registers[order[i]];
    result->rip = (uint64_t)registers[REG_RIP];
    result->rflags = (uint64_t)registers[REG_EFL];
    result->vector = vector;
    result->error_code = (uint32_t)registers[REG_ERR];
    result->cr2 = (uint64_t)registers[REG_CR2];
    uint64_t selectors = (uint64_t)registers[REG_CSGSFS];
    uint16_t es, ds, fs, gs;
    uint64_t fs_base, gs_base;
    __asm__ volatile("movw %%es, %0\n\tmovw %%ds, %1\n\tmovw %%fs, %2\n\tmovw %%gs, %3"
                     : "=r"(es), "=r"(ds), "=r"(fs), "=r"(gs));
    __asm__ volatile("rdfsbase %0\n\trdgsbase %1" : "=r"(fs_base), "=r"(gs_base));
    result->selectors[0] = es;
    result->selectors[1] = (uint16_t)selectors;
    result->selectors[2] = (uint16_t)(selectors >> 48);
    result->selectors[3] = ds;
    result->selectors[4] = fs;
    result->selectors[5] = gs;
    result->fs_base = fs_base;
    result->gs_base = gs_base;
    if (GATE->extended) copy(result->xsave, context->uc_mcontext.fpregs, sizeof result->xsave);
    __asm__ volatile("jmp oracle_resume");
    __builtin_unreachable();
}

static void on_fault(int number, siginfo_t *info, void *raw) {
    ucontext_t *context = raw;
    (void)info;
    if (!GATE->inside) {
        // A bug of ours, not the test's: die of it.
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigaction(number, &standard, 0);
        return;
    }
    record_and_resume(context, (uint32_t)context->uc_mcontext.gregs[REG_TRAPNO]);
}

static void on_tick(int number, siginfo_t *info, void *raw) {
    (void)number;
    (void)info;
    if (!watched_progress) return;
    if (*watched_progress != last_progress) {
        last_progress = *watched_progress;
        return;
    }
    if (GATE->inside) record_and_resume(raw, ORACLE_HUNG);
    __atomic_or_fetch(watched_attention, attention_bits, __ATOMIC_SEQ_CST);
    __atomic_store_n(watched_limit, ~0ull, __ATOMIC_SEQ_CST);
}

static int map_fixed(uintptr_t address, size_t size, int protection, int flags, int file) {
    void *wanted = (void *)address;
    void *got = mmap(wanted, size, protection, flags | MAP_FIXED_NOREPLACE | MAP_POPULATE, file, 0);
    return got == MAP_FAILED ? -errno : got == wanted ? 0 : -EEXIST;
}

static int map_places(void) {
    int file = memfd_create("oracle-code", 0);
    if (file < 0 || ftruncate(file, ORACLE_CODE_SIZE)) return -errno;
    code_alias = mmap(0, ORACLE_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    if (code_alias == MAP_FAILED) return -errno;
    memset(code_alias, 0xCC, ORACLE_CODE_SIZE);
    int bad = map_fixed(ORACLE_CODE, ORACLE_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, file);
    close(file);
    if (bad) return bad;
    const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS, writable = PROT_READ | PROT_WRITE;
    bad = map_fixed(ORACLE_DATA, ORACLE_DATA_SIZE + ORACLE_READ_ONLY_SIZE, writable, anonymous, -1);
    if (bad) return bad;
    memset(oracle_read_only(), 0, ORACLE_READ_ONLY_SIZE);
    for (unsigned i = 0; i < ORACLE_READ_ONLY_SIZE; i++) oracle_read_only()[i] = (uint8_t)(i * 37 + 11);
    if (mprotect(oracle_read_only(), ORACLE_READ_ONLY_SIZE, PROT_READ)) return -errno;
    bad = map_fixed(ORACLE_GATE, 0x1000, writable, anonymous, -1);
    if (bad) return bad;
    // A far jump from 32-bit code reaches only low addresses: jmp [rip+2] and the address.
    bad = map_fixed(ORACLE_GATE + 0x1000, 0x1000, writable, anonymous, -1);
    if (bad) return bad;
    uint8_t *trampoline = (uint8_t *)(uintptr_t)(ORACLE_GATE + 0x1000);
    // The address stands aligned, for AC may be set.
    static const uint8_t jump[6] = {0xFF, 0x25, 2};
    uint64_t target = (uint64_t)(uintptr_t)oracle_leave;
    memcpy(trampoline, jump, 6);
    memcpy(trampoline + 8, &target, 8);
    GATE->exit_address = (uint64_t)(uintptr_t)trampoline;
    return mprotect(trampoline, 0x1000, PROT_READ | PROT_EXEC) ? -errno : 0;
}

int oracle_prepare(void) {
    int bad = map_places();
    if (bad) return bad;
    static uint8_t stack[1 << 16] __attribute__((aligned(64)));
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    if (sigaltstack(&alternate, 0)) return -errno;
    const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    for (unsigned i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        if (sigaction(faults[i], &action, 0)) return -errno;
    }
    return 0;
}

int oracle_set_descriptor(unsigned entry, uint32_t base, uint32_t limit, uint32_t attributes) {
    struct user_desc descriptor;
    memset(&descriptor, 0, sizeof descriptor);
    descriptor.entry_number = entry;
    descriptor.base_addr = base;
    descriptor.limit = limit;
    descriptor.contents = (attributes >> 2) & 3;
    descriptor.read_exec_only = !(attributes & 2);
    descriptor.seg_not_present = !(attributes & 0x80);
    descriptor.useable = (attributes >> 12) & 1;
    descriptor.seg_32bit = (attributes >> 14) & 1;
    descriptor.limit_in_pages = (attributes >> 15) & 1;
    return syscall(SYS_modify_ldt, 0x11, &descriptor, sizeof descriptor) ? -errno : 0;
}

int oracle_look_up(uint16_t selector, uint32_t *rights, uint32_t *limit) {
    unsigned char seen, sized;
    uint32_t wide = selector;
    *rights = *limit = 0;
    __asm__("lar %2, %0\n\tsetz %1" : "+r"(*rights), "=qm"(seen) : "r"(wide) : "cc");
    __asm__("lsl %2, %0\n\tsetz %1" : "+r"(*limit), "=qm"(sized) : "r"(wide) : "cc");
    return seen;
}

uint8_t *oracle_code(void) { return code_alias; }
uint8_t *oracle_data(void) { return (uint8_t *)(uintptr_t)ORACLE_DATA; }
uint8_t *oracle_read_only(void) { return (uint8_t *)(uintptr_t)(ORACLE_DATA + ORACLE_DATA_SIZE); }
int oracle_has_fsgsbase(void) { return (getauxval(AT_HWCAP2) >> 1) & 1; }
void oracle_run(const struct oracle_state *input, int extended) {
    // XRSTOR wants its image at a multiple of 64, which Swift does not promise.
    static _Alignas(64) struct oracle_state aligned;
    aligned = *input;
    oracle_enter(&aligned, extended != 0);
}
const struct oracle_state *oracle_result(void) { return (const struct oracle_state *)(uintptr_t)ORACLE_GATE; }

int oracle_ending(int bits, uint8_t out[16]) {
    uint32_t pointer = ORACLE_GATE + offsetof(struct gate, exit_address), trampoline = ORACLE_GATE + 0x1000;
    int count = 0;
    if (bits == 64) {
        const uint8_t jump[3] = {0xFF, 0x24, 0x25};
        memcpy(out, jump, 3);
        memcpy(out + 3, &pointer, 4);
        return 7;
    }
    if (bits == 16) out[count++] = 0x66;
    out[count++] = 0xEA;
    memcpy(out + count, &trampoline, 4);
    out[count + 4] = 0x33;
    out[count + 5] = 0;
    return count + 6;
}

void oracle_watch(volatile uint64_t *progress, uint32_t *attention, uint32_t bits, uint64_t *limit) {
    watched_limit = limit;
    watched_attention = attention;
    attention_bits = bits;
    watched_progress = progress;
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER};
    sigaction(SIGPROF, &action, 0);
    struct itimerval interval = {{0, 250000}, {0, 250000}};
    setitimer(ITIMER_PROF, &interval, 0);
}

int oracle_fork(void) { return fork(); }

int oracle_wait(int pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return 255;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

void *oracle_shared(uint64_t size) {
    void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? 0 : memory;
}
