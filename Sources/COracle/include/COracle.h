// Runs a few instructions on the host processor in a state of the caller's choice, and catches whatever
// happens. For a process of its own with one thread: it takes over all fault signals and the LDT.
#ifndef OSPITE_CORACLE_H
#define OSPITE_CORACLE_H
#include <stdint.h>

/// Fixed places below 2 GiB, so that 16-bit and 32-bit code reaches them too.
enum {
    ORACLE_CODE = 0x10000000,  // two pages, executable; written through an alias
    ORACLE_DATA = 0x10100000,  // two writable pages, then one that can only be read
    ORACLE_EXIT_POINTER = 1048,  // where in the gate the ending finds the trampoline's address
    ORACLE_GATE = 0x2DB70000,  // the way in and out; its upper half is ESP's in 16-bit stack segments
    ORACLE_CODE_SIZE = 0x2000,
    ORACLE_DATA_SIZE = 0x2000,
    ORACLE_READ_ONLY_SIZE = 0x1000,
};

/// In `vector`: the code ran to its end, or did not end.
enum { ORACLE_REACHED_END = 0x100, ORACLE_HUNG = 0x101 };

/// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15; ES, CS, SS, DS, FS, GS; the XSAVE image up to AVX.
/// COracle.c counts on the offsets.
struct oracle_state {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    uint64_t fs_base;
    uint64_t gs_base;
    uint16_t selectors[8];
    uint32_t vector;
    uint32_t error_code;
    uint64_t cr2;
    uint64_t xsave[104];
};

/// Maps the places and takes the signals. 0, or a negative error number.
int oracle_prepare(void);
/// Puts a descriptor into the LDT; `attributes` are descriptor bits 40..47 in bits 0..7 and 52..55 in 12..15.
int oracle_set_descriptor(unsigned entry, uint32_t base, uint32_t limit, uint32_t attributes);
/// What LAR and LSL say of a selector: nonzero when it is visible.
int oracle_look_up(uint16_t selector, uint32_t *rights, uint32_t *limit);
/// Writable view of the code pages.
uint8_t *oracle_code(void);
uint8_t *oracle_data(void);
uint8_t *oracle_read_only(void);
/// Nonzero when rdfsbase and its family work in user mode.
int oracle_has_fsgsbase(void);
/// Runs from `input` on. With `extended`, x87, SSE and AVX state are loaded and stored too.
/// FS and GS bases count in 64-bit mode (`selectors[1]` 0x33) only.
void oracle_run(const struct oracle_state *input, int extended);
/// Where `oracle_run` leaves the state that it ended with.
const struct oracle_state *oracle_result(void);
/// Bytes that end the code on the host, for a code segment of 16, 32 or 64 bits; returns their count.
int oracle_ending(int bits, uint8_t out[16]);

/// The watchdog: when `*progress` stands still for a quarter of a second of processor time, what runs on the
/// host is ended with ORACLE_HUNG, or `bits` are set atomically in `*attention` and
/// then all bits in `*limit`.
void oracle_watch(volatile uint64_t *progress, uint32_t *attention, uint32_t bits, uint64_t *limit);

/// fork(2), which Swift does not import. Only before threads exist.
int oracle_fork(void);
/// Waits for `pid`; its exit status, or 256 and the signal that killed it.
int oracle_wait(int pid);
/// Memory that forked processes share.
void *oracle_shared(uint64_t size);
#endif
