// The KVM interface (Linux Documentation/virt/kvm/api.rst) in types that Swift imports well. Prototypes and
// constants only; bodies, and the proof that the constants are the kernel's, are in CKVM.c.
#ifndef OSPITE_CKVM_H
#define OSPITE_CKVM_H
#include <stdint.h>

/// Extensions (KVM_CHECK_EXTENSION).
typedef enum __attribute__((enum_extensibility(closed))) : int32_t {
    OspiteKVMCapabilityIRQChip = 0,
    OspiteKVMCapabilityUserMemory = 3,
    OspiteKVMCapabilityExtendedCPUID = 7,
    OspiteKVMCapabilityIRQRouting = 25,
    OspiteKVMCapabilityIRQEvent = 32,
    OspiteKVMCapabilityPIT2 = 33,
    OspiteKVMCapabilityIOEvent = 36,
    OspiteKVMCapabilityXSave = 55,
    OspiteKVMCapabilityExtendedControl = 56,
    OspiteKVMCapabilityTSCRate = 61,
    OspiteKVMCapabilitySignalMSI = 77,
    OspiteKVMCapabilityReadOnlyMemory = 81,
    OspiteKVMCapabilitySplitIRQChip = 121,
    OspiteKVMCapabilityX2APIC = 129,
    OspiteKVMCapabilityImmediateExit = 136,
    OspiteKVMCapabilityExitOnEmulationFailure = 204,
} OspiteKVMCapability;

/// Why KVM_RUN came back (struct kvm_run.exit_reason).
typedef enum __attribute__((enum_extensibility(open))) : uint32_t {
    OspiteKVMExitUnknown = 0,
    OspiteKVMExitPort = 2,
    OspiteKVMExitDebug = 4,
    OspiteKVMExitHalt = 5,
    OspiteKVMExitMemory = 6,
    OspiteKVMExitInterruptWindow = 7,
    OspiteKVMExitShutdown = 8,
    OspiteKVMExitFailedEntry = 9,
    OspiteKVMExitInterrupted = 10,
    OspiteKVMExitTaskPriority = 11,
    OspiteKVMExitInternalError = 17,
    OspiteKVMExitSystemEvent = 24,
    OspiteKVMExitEndOfInterrupt = 26,
} OspiteKVMExit;

/// Byte offsets into struct kvm_run.
enum {
    ospite_run_request_window = 0,
    ospite_run_immediate_exit = 1,
    ospite_run_exit_reason = 8,
    ospite_run_ready_for_interrupt = 12,
    ospite_run_interrupt_flag = 13,
    ospite_run_cr8 = 16,
    ospite_run_apic_base = 24,
    ospite_run_exit = 32,
};

struct ospite_kvm_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    /// As in VCPUState: descriptor bits 40..47 and 52..55; bit 16 is unusable.
    uint32_t attributes;
};

/// struct kvm_sregs but for the segments.
struct ospite_kvm_system {
    uint64_t gdt_base, idt_base;
    uint16_t gdt_limit, idt_limit;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
    /// The vector of an interrupt that KVM is injecting, or -1.
    int32_t injecting;
};

/// struct kvm_vcpu_events, the part that the architectural state knows.
struct ospite_kvm_events {
    uint8_t exception_pending, exception_vector, exception_has_error;
    uint32_t exception_error;
    uint8_t interrupt_pending, interrupt_vector, interrupt_is_software, interrupt_shadow;
    uint8_t nmi_injected, nmi_pending, nmi_blocked;
};

struct ospite_kvm_cpuid {
    uint32_t leaf, subleaf, has_subleaf, eax, ebx, ecx, edx;
};

/// One entry of the interrupt routing table: a pin of a kernel chip, or a message.
struct ospite_kvm_route {
    uint32_t gsi;
    /// 0 to 2 for the pins of the first PIC, second PIC and IOAPIC; -1 for a message.
    int32_t chip;
    uint32_t pin;
    uint64_t address;
    uint32_t data;
};

/// The host's time-stamp counter.
uint64_t ospite_kvm_host_tsc(void);
/// Sends a signal to one thread of this process; failure means that the thread is gone.
void ospite_signal_thread(int thread, int signal);

// All return -1 and set errno on failure unless they say otherwise.

// On /dev/kvm.
int ospite_kvm_api_version(int kvm);
int ospite_kvm_check(int kvm_or_vm, OspiteKVMCapability capability);
int ospite_kvm_create_vm(int kvm);
int ospite_kvm_run_size(int kvm);
/// Returns how many entries were stored, at most `capacity`.
int ospite_kvm_supported_cpuid(int kvm, struct ospite_kvm_cpuid *entries, int capacity);
int ospite_kvm_msr_list(int kvm, uint32_t *numbers, int capacity);

// On a VM.
int ospite_kvm_create_vcpu(int vm, int index);
int ospite_kvm_set_internal_pages(int vm, uint64_t identity_map, uint64_t task_state);
int ospite_kvm_create_irqchip(int vm);
int ospite_kvm_split_irqchip(int vm, int pins);
int ospite_kvm_create_pit(int vm, int speaker_dummy);
int ospite_kvm_enable(int vm, OspiteKVMCapability capability, uint64_t argument);
int ospite_kvm_set_memory(
    int vm, uint32_t slot, uint64_t guest, uint64_t size, const void *host, int read_only, int log_dirty);
/// Fills one bit per 4 KiB page of the slot and clears the kernel's log.
int ospite_kvm_dirty_log(int vm, uint32_t slot, void *bitmap);
/// `size` is 1, 2, 4, 8 or 0 for any; `matched` says whether only writes of `value` count.
int ospite_kvm_io_event(
    int vm, int event, uint64_t address, uint32_t size, int is_port, int matched, uint64_t value, int remove);
/// `resample` is -1 or an eventfd that is signalled when the guest ends a level-triggered interrupt.
int ospite_kvm_irq_event(int vm, int event, uint32_t gsi, int resample, int remove);
int ospite_kvm_irq_line(int vm, uint32_t gsi, int level);
int ospite_kvm_signal_msi(int vm, uint64_t address, uint32_t data);
int ospite_kvm_set_routes(int vm, const struct ospite_kvm_route *routes, int count);
/// The machine's kvmclock in nanoseconds.
int ospite_kvm_get_clock(int vm, uint64_t *nanoseconds);
int ospite_kvm_set_clock(int vm, uint64_t nanoseconds);
/// The 512-byte state of a kernel chip: 0 and 1 the PICs, 2 the IOAPIC.
int ospite_kvm_get_chip(int vm, uint32_t chip, void *state);
int ospite_kvm_set_chip(int vm, uint32_t chip, const void *state);

// On a vCPU.
int ospite_kvm_run(int vcpu);
/// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15, RIP, RFLAGS: 18 values.
int ospite_kvm_get_registers(int vcpu, uint64_t *values);
int ospite_kvm_set_registers(int vcpu, const uint64_t *values);
/// Segments ES, CS, SS, DS, FS, GS, LDTR, TR: 8.
int ospite_kvm_get_system(int vcpu, struct ospite_kvm_segment *segments, struct ospite_kvm_system *system);
int ospite_kvm_set_system(
    int vcpu, const struct ospite_kvm_segment *segments, const struct ospite_kvm_system *system);
/// 4,096 bytes in the standard XSAVE format.
int ospite_kvm_get_xsave(int vcpu, void *area);
int ospite_kvm_set_xsave(int vcpu, const void *area);
int ospite_kvm_get_xcr0(int vcpu, uint64_t *value);
int ospite_kvm_set_xcr0(int vcpu, uint64_t value);
/// DR0..DR3, DR6, DR7: 6 values.
int ospite_kvm_get_debug(int vcpu, uint64_t *values);
int ospite_kvm_set_debug(int vcpu, const uint64_t *values);
/// KVM_SET_GUEST_DEBUG: `control` is KVM_GUESTDBG_*, `registers` DR0..DR7: 8 values.
int ospite_kvm_set_guest_debug(int vcpu, uint32_t control, const uint64_t *registers);
/// Stops at the first register that the kernel refuses; returns how many were done. `count` <= 256.
int ospite_kvm_get_msrs(int vcpu, const uint32_t *numbers, uint64_t *values, int count);
int ospite_kvm_set_msrs(int vcpu, const uint32_t *numbers, const uint64_t *values, int count);
/// The 1,024 bytes of registers of the kernel's local APIC.
int ospite_kvm_get_lapic(int vcpu, void *registers);
int ospite_kvm_set_lapic(int vcpu, const void *registers);
int ospite_kvm_get_mp_state(int vcpu);
int ospite_kvm_set_mp_state(int vcpu, uint32_t state);
int ospite_kvm_get_events(int vcpu, struct ospite_kvm_events *events);
int ospite_kvm_set_events(int vcpu, const struct ospite_kvm_events *events);
int ospite_kvm_set_cpuid(int vcpu, const struct ospite_kvm_cpuid *entries, int count);
int ospite_kvm_interrupt(int vcpu, uint32_t vector);
int ospite_kvm_nmi(int vcpu);
int ospite_kvm_get_tsc_khz(int vcpu);
int ospite_kvm_set_tsc_khz(int vcpu, uint64_t khz);
/// What the guest's time-stamp counter is ahead of the host's.
int ospite_kvm_get_tsc_offset(int vcpu, uint64_t *offset);
int ospite_kvm_set_tsc_offset(int vcpu, uint64_t offset);
/// Tells the guest's kvmclock that it was stopped (no soft lock-up reports).
int ospite_kvm_clock_was_stopped(int vcpu);

#endif
