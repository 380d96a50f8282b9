#define _GNU_SOURCE
#include "CKVM.h"
#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SAME(ours, kernels) _Static_assert((int)(ours) == (int)(kernels), #kernels)
SAME(OspiteKVMCapabilityIRQChip, KVM_CAP_IRQCHIP);
SAME(OspiteKVMCapabilityUserMemory, KVM_CAP_USER_MEMORY);
SAME(OspiteKVMCapabilityExtendedCPUID, KVM_CAP_EXT_CPUID);
SAME(OspiteKVMCapabilityIRQRouting, KVM_CAP_IRQ_ROUTING);
SAME(OspiteKVMCapabilityIRQEvent, KVM_CAP_IRQFD);
SAME(OspiteKVMCapabilityPIT2, KVM_CAP_PIT2);
SAME(OspiteKVMCapabilityIOEvent, KVM_CAP_IOEVENTFD);
SAME(OspiteKVMCapabilityXSave, KVM_CAP_XSAVE);
SAME(OspiteKVMCapabilityExtendedControl, KVM_CAP_XCRS);
SAME(OspiteKVMCapabilityTSCRate, KVM_CAP_GET_TSC_KHZ);
SAME(OspiteKVMCapabilitySignalMSI, KVM_CAP_SIGNAL_MSI);
SAME(OspiteKVMCapabilityReadOnlyMemory, KVM_CAP_READONLY_MEM);
SAME(OspiteKVMCapabilitySplitIRQChip, KVM_CAP_SPLIT_IRQCHIP);
SAME(OspiteKVMCapabilityX2APIC, KVM_CAP_X2APIC_API);
SAME(OspiteKVMCapabilityImmediateExit, KVM_CAP_IMMEDIATE_EXIT);
SAME(OspiteKVMCapabilityExitOnEmulationFailure, KVM_CAP_EXIT_ON_EMULATION_FAILURE);
SAME(OspiteKVMExitPort, KVM_EXIT_IO);
SAME(OspiteKVMExitDebug, KVM_EXIT_DEBUG);
SAME(OspiteKVMExitHalt, KVM_EXIT_HLT);
SAME(OspiteKVMExitMemory, KVM_EXIT_MMIO);
SAME(OspiteKVMExitInterruptWindow, KVM_EXIT_IRQ_WINDOW_OPEN);
SAME(OspiteKVMExitShutdown, KVM_EXIT_SHUTDOWN);
SAME(OspiteKVMExitFailedEntry, KVM_EXIT_FAIL_ENTRY);
SAME(OspiteKVMExitInterrupted, KVM_EXIT_INTR);
SAME(OspiteKVMExitTaskPriority, KVM_EXIT_SET_TPR);
SAME(OspiteKVMExitInternalError, KVM_EXIT_INTERNAL_ERROR);
SAME(OspiteKVMExitSystemEvent, KVM_EXIT_SYSTEM_EVENT);
SAME(OspiteKVMExitEndOfInterrupt, KVM_EXIT_IOAPIC_EOI);
SAME(ospite_run_request_window, offsetof(struct kvm_run, request_interrupt_window));
SAME(ospite_run_immediate_exit, offsetof(struct kvm_run, immediate_exit));
SAME(ospite_run_exit_reason, offsetof(struct kvm_run, exit_reason));
SAME(ospite_run_ready_for_interrupt, offsetof(struct kvm_run, ready_for_interrupt_injection));
SAME(ospite_run_interrupt_flag, offsetof(struct kvm_run, if_flag));
SAME(ospite_run_cr8, offsetof(struct kvm_run, cr8));
SAME(ospite_run_apic_base, offsetof(struct kvm_run, apic_base));
SAME(ospite_run_exit, offsetof(struct kvm_run, io));

enum { cpuid_limit = 256, msr_limit = 1024, route_limit = 4096, chip_state_size = 512 };

uint64_t ospite_kvm_host_tsc(void) { return __builtin_ia32_rdtsc(); }
void ospite_signal_thread(int thread, int number) { syscall(SYS_tgkill, getpid(), thread, number); }

int ospite_kvm_api_version(int kvm) { return ioctl(kvm, KVM_GET_API_VERSION, 0); }
int ospite_kvm_check(int fd, OspiteKVMCapability capability) {
    return ioctl(fd, KVM_CHECK_EXTENSION, (long)capability);
}
int ospite_kvm_create_vm(int kvm) { return ioctl(kvm, KVM_CREATE_VM, 0); }
int ospite_kvm_run_size(int kvm) { return ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0); }

int ospite_kvm_supported_cpuid(int kvm, struct ospite_kvm_cpuid *entries, int capacity) {
    struct kvm_cpuid2 *list = calloc(1, sizeof *list + cpuid_limit * sizeof list->entries[0]);
    if (!list) return -1;
    list->nent = cpuid_limit;
    int result = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list);
    if (result == 0) {
        for (; result < (int)list->nent && result < capacity; result++) {
            struct kvm_cpuid_entry2 *from = &list->entries[result];
            entries[result] = (struct ospite_kvm_cpuid){
                from->function, from->index, from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX ? 1 : 0,
                from->eax, from->ebx, from->ecx, from->edx};
        }
    }
    free(list);
    return result;
}

int ospite_kvm_set_cpuid(int vcpu, const struct ospite_kvm_cpuid *entries, int count) {
    if (count < 0 || count > cpuid_limit) {
        errno = E2BIG;
        return -1;
    }
    struct kvm_cpuid2 *list = calloc(1, sizeof *list + cpuid_limit * sizeof list->entries[0]);
    if (!list) return -1;
    list->nent = (uint32_t)count;
    for (int i = 0; i < count; i++) {
        list->entries[i] = (struct kvm_cpuid_entry2){
            .function = entries[i].leaf, .index = entries[i].subleaf,
            .flags = entries[i].has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = entries[i].eax, .ebx = entries[i].ebx, .ecx = entries[i].ecx, .edx = entries[i].edx};
    }
    int result = ioctl(vcpu, KVM_SET_CPUID2, list);
    free(list);
    return result;
}

int ospite_kvm_msr_list(int kvm, uint32_t *numbers, int capacity) {
    struct kvm_msr_list *list = calloc(1, sizeof *list + msr_limit * sizeof list->indices[0]);
    if (!list) return -1;
    list->nmsrs = msr_limit;
    int result = ioctl(kvm, KVM_GET_MSR_INDEX_LIST, list);
    if (result == 0) {
        for (; result < (int)list->nmsrs && result < capacity; result++) {
            numbers[result] = list->indices[result];
        }
    }
    free(list);
    return result;
}

int ospite_kvm_create_vcpu(int vm, int index) { return ioctl(vm, KVM_CREATE_VCPU, (long)index); }

int ospite_kvm_set_internal_pages(int vm, uint64_t identity_map, uint64_t task_state) {
    __u64 address = identity_map;
    if (ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &address) < 0) return -1;
    return ioctl(vm, KVM_SET_TSS_ADDR, (unsigned long)task_state);
}

int ospite_kvm_create_irqchip(int vm) { return ioctl(vm, KVM_CREATE_IRQCHIP, 0); }
int ospite_kvm_split_irqchip(int vm, int pins) {
    return ospite_kvm_enable(vm, OspiteKVMCapabilitySplitIRQChip, (uint64_t)pins);
}

int ospite_kvm_create_pit(int vm, int speaker_dummy) {
    struct kvm_pit_config configuration = {.flags = speaker_dummy ? KVM_PIT_SPEAKER_DUMMY : 0};
    return ioctl(vm, KVM_CREATE_PIT2, &configuration);
}

int ospite_kvm_enable(int vm, OspiteKVMCapability capability, uint64_t argument) {
    struct kvm_enable_cap enable = {.cap = (uint32_t)capability, .args = {argument}};
    return ioctl(vm, KVM_ENABLE_CAP, &enable);
}

int ospite_kvm_set_memory(
    int vm, uint32_t slot, uint64_t guest, uint64_t size, const void *host, int read_only, int log_dirty) {
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = (read_only ? KVM_MEM_READONLY : 0) | (log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = guest, .memory_size = size, .userspace_addr = (uintptr_t)host};
    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

int ospite_kvm_dirty_log(int vm, uint32_t slot, void *bitmap) {
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    return ioctl(vm, KVM_GET_DIRTY_LOG, &log);
}

int ospite_kvm_io_event(int vm, int event, uint64_t address, uint32_t size, int is_port, int matched,
                        uint64_t value, int remove) {
    struct kvm_ioeventfd request = {
        .datamatch = value, .addr = address, .len = size, .fd = event,
        .flags = (is_port ? KVM_IOEVENTFD_FLAG_PIO : 0) | (matched ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (remove ? KVM_IOEVENTFD_FLAG_DEASSIGN : 0)};
    return ioctl(vm, KVM_IOEVENTFD, &request);
}

int ospite_kvm_irq_event(int vm, int event, uint32_t gsi, int resample, int remove) {
    struct kvm_irqfd request = {
        .fd = (uint32_t)event, .gsi = gsi,
        .flags = (remove ? KVM_IRQFD_FLAG_DEASSIGN : 0) |
                 (resample >= 0 && !remove ? KVM_IRQFD_FLAG_RESAMPLE : 0),
        .resamplefd = resample >= 0 ? (uint32_t)resample : 0};
    return ioctl(vm, KVM_IRQFD, &request);
}

int ospite_kvm_irq_line(int vm, uint32_t gsi, int level) {
    struct kvm_irq_level line = {.irq = gsi, .level = level ? 1 : 0};
    return ioctl(vm, KVM_IRQ_LINE, &line);
}

int ospite_kvm_signal_msi(int vm, uint64_t address, uint32_t data) {
    struct kvm_msi message = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    return ioctl(vm, KVM_SIGNAL_MSI, &message);
}

int ospite_kvm_set_routes(int vm, const struct ospite_kvm_route *routes, int count) {
    if (count < 0 || count > route_limit) {
        errno = E2BIG;
        return -1;
    }
    struct kvm_irq_routing *table = calloc(1, sizeof *table + (size_t)count * sizeof table->entries[0]);
    if (!table) return -1;
    table->nr = (uint32_t)count;
    for (int i = 0; i < count; i++) {
        struct kvm_irq_routing_entry *entry = &table->entries[i];
        entry->gsi = routes[i].gsi;
        if (routes[i].chip < 0) {
            entry->type = KVM_IRQ_ROUTING_MSI;
            entry->u.msi.address_lo = (uint32_t)routes[i].address;
            entry->u.msi.address_hi = (uint32_t)(routes[i].address >> 32);
            entry->u.msi.data = routes[i].data;
        } else {
            entry->type = KVM_IRQ_ROUTING_IRQCHIP;
            entry->u.irqchip.irqchip = (uint32_t)routes[i].chip;
            entry->u.irqchip.pin = routes[i].pin;
        }
    }
    int result = ioctl(vm, KVM_SET_GSI_ROUTING, table);
    free(table);
    return result;
}

int ospite_kvm_get_clock(int vm, uint64_t *nanoseconds) {
    struct kvm_clock_data data;
    memset(&data, 0, sizeof data);
    int result = ioctl(vm, KVM_GET_CLOCK, &data);
    *nanoseconds = data.clock;
    return result;
}

int ospite_kvm_set_clock(int vm, uint64_t nanoseconds) {
    struct kvm_clock_data data = {.clock = nanoseconds};
    return ioctl(vm, KVM_SET_CLOCK, &data);
}

int ospite_kvm_get_chip(int vm, uint32_t chip, void *state) {
    struct kvm_irqchip request = {.chip_id = chip};
    _Static_assert(sizeof request.chip == chip_state_size, "the state of a kernel chip");
    int result = ioctl(vm, KVM_GET_IRQCHIP, &request);
    memcpy(state, &request.chip, chip_state_size);
    return result;
}

int ospite_kvm_set_chip(int vm, uint32_t chip, const void *state) {
    struct kvm_irqchip request = {.chip_id = chip};
    memcpy(&request.chip, state, chip_state_size);
    return ioctl(vm, KVM_SET_IRQCHIP, &request);
}

int ospite_kvm_run(int vcpu) { return ioctl(vcpu, KVM_RUN, 0); }

int ospite_kvm_get_registers(int vcpu, uint64_t *v) {
    struct kvm_regs r;
    if (ioctl(vcpu, KVM_GET_REGS, &r) < 0) return -1;
    const uint64_t values[18] = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8,
                                 r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rip, r.rflags};
    memcpy(v, values, sizeof values);
    return 0;
}

int ospite_kvm_set_registers(int vcpu, const uint64_t *v) {
    struct kvm_regs r = {
        .rax = v[0], .rcx = v[1], .rdx = v[2], .rbx = v[3], .rsp = v[4], .rbp = v[5], .rsi = v[6],
        .rdi = v[7], .r8 = v[8], .r9 = v[9], .r10 = v[10], .r11 = v[11], .r12 = v[12], .r13 = v[13],
        .r14 = v[14], .r15 = v[15], .rip = v[16], .rflags = v[17]};
    return ioctl(vcpu, KVM_SET_REGS, &r);
}

static struct ospite_kvm_segment from_kernel(const struct kvm_segment *s) {
    return (struct ospite_kvm_segment){
        .base = s->base, .limit = s->limit, .selector = s->selector,
        .attributes = (s->type & 15u) | (s->s & 1u) << 4 | (s->dpl & 3u) << 5 | (s->present & 1u) << 7 |
                      (s->avl & 1u) << 12 | (s->l & 1u) << 13 | (s->db & 1u) << 14 | (s->g & 1u) << 15 |
                      (s->unusable & 1u) << 16};
}

static struct kvm_segment to_kernel(const struct ospite_kvm_segment *s) {
    uint32_t a = s->attributes;
    return (struct kvm_segment){
        .base = s->base, .limit = s->limit, .selector = s->selector, .type = a & 15, .s = a >> 4 & 1,
        .dpl = a >> 5 & 3, .present = a >> 7 & 1, .avl = a >> 12 & 1, .l = a >> 13 & 1, .db = a >> 14 & 1,
        .g = a >> 15 & 1, .unusable = a >> 16 & 1};
}

int ospite_kvm_get_system(int vcpu, struct ospite_kvm_segment *segments, struct ospite_kvm_system *system) {
    struct kvm_sregs s;
    if (ioctl(vcpu, KVM_GET_SREGS, &s) < 0) return -1;
    const struct kvm_segment *order[8] = {&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs, &s.ldt, &s.tr};
    for (int i = 0; i < 8; i++) segments[i] = from_kernel(order[i]);
    *system = (struct ospite_kvm_system){
        .gdt_base = s.gdt.base, .idt_base = s.idt.base, .gdt_limit = s.gdt.limit, .idt_limit = s.idt.limit,
        .cr0 = s.cr0, .cr2 = s.cr2, .cr3 = s.cr3, .cr4 = s.cr4, .cr8 = s.cr8, .efer = s.efer,
        .apic_base = s.apic_base, .injecting = -1};
    for (int i = 0; i < 4; i++) {
        if (s.interrupt_bitmap[i]) system->injecting = i * 64 + __builtin_ctzll(s.interrupt_bitmap[i]);
    }
    return 0;
}

int ospite_kvm_set_system(
    int vcpu, const struct ospite_kvm_segment *segments, const struct ospite_kvm_system *system) {
    struct kvm_sregs s;
    memset(&s, 0, sizeof s);
    struct kvm_segment *order[8] = {&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs, &s.ldt, &s.tr};
    for (int i = 0; i < 8; i++) *order[i] = to_kernel(&segments[i]);
    s.gdt.base = system->gdt_base;
    s.gdt.limit = system->gdt_limit;
    s.idt.base = system->idt_base;
    s.idt.limit = system->idt_limit;
    s.cr0 = system->cr0;
    s.cr2 = system->cr2;
    s.cr3 = system->cr3;
    s.cr4 = system->cr4;
    s.cr8 = system->cr8;
    s.efer = system->efer;
    s.apic_base = system->apic_base;
    if (system->injecting >= 0 && system->injecting < 256) {
        s.interrupt_bitmap[system->injecting / 64] = 1ull << (system->injecting % 64);
    }
    return ioctl(vcpu, KVM_SET_SREGS, &s);
}

_Static_assert(sizeof(struct kvm_xsave) == 4096, "the XSAVE area is one page");
int ospite_kvm_get_xsave(int vcpu, void *area) { return ioctl(vcpu, KVM_GET_XSAVE, area); }
int ospite_kvm_set_xsave(int vcpu, const void *area) { return ioctl(vcpu, KVM_SET_XSAVE, area); }

int ospite_kvm_get_xcr0(int vcpu, uint64_t *value) {
    struct kvm_xcrs registers;
    if (ioctl(vcpu, KVM_GET_XCRS, &registers) < 0) return -1;
    for (uint32_t i = 0; i < registers.nr_xcrs && i < KVM_MAX_XCRS; i++) {
        if (registers.xcrs[i].xcr == 0) {
            *value = registers.xcrs[i].value;
            return 0;
        }
    }
    errno = ENOENT;
    return -1;
}

int ospite_kvm_set_xcr0(int vcpu, uint64_t value) {
    struct kvm_xcrs registers = {.nr_xcrs = 1};
    registers.xcrs[0].value = value;
    return ioctl(vcpu, KVM_SET_XCRS, &registers);
}

int ospite_kvm_get_debug(int vcpu, uint64_t *v) {
    struct kvm_debugregs d;
    if (ioctl(vcpu, KVM_GET_DEBUGREGS, &d) < 0) return -1;
    for (int i = 0; i < 4; i++) v[i] = d.db[i];
    v[4] = d.dr6;
    v[5] = d.dr7;
    return 0;
}

int ospite_kvm_set_debug(int vcpu, const uint64_t *v) {
    struct kvm_debugregs d = {.db = {v[0], v[1], v[2], v[3]}, .dr6 = v[4], .dr7 = v[5]};
    return ioctl(vcpu, KVM_SET_DEBUGREGS, &d);
}

int ospite_kvm_set_guest_debug(int vcpu, uint32_t control, const uint64_t *registers) {
    struct kvm_guest_debug d = {.control = control};
    _Static_assert(sizeof d.arch.debugreg == 8 * sizeof(uint64_t), "eight debug registers");
    memcpy(d.arch.debugreg, registers, sizeof d.arch.debugreg);
    return ioctl(vcpu, KVM_SET_GUEST_DEBUG, &d);
}

// 256 entries behind the header; aligned like it.
union msr_batch {
    struct kvm_msrs list;
    char space[sizeof(struct kvm_msrs) + 256 * sizeof(struct kvm_msr_entry)];
};

int ospite_kvm_get_msrs(int vcpu, const uint32_t *numbers, uint64_t *values, int count) {
    union msr_batch batch;
    if (count < 0 || count > 256) {
        errno = E2BIG;
        return -1;
    }
    memset(&batch, 0, sizeof batch);
    batch.list.nmsrs = (uint32_t)count;
    for (int i = 0; i < count; i++) batch.list.entries[i].index = numbers[i];
    int done = ioctl(vcpu, KVM_GET_MSRS, &batch);
    for (int i = 0; i < done; i++) values[i] = batch.list.entries[i].data;
    return done;
}

int ospite_kvm_set_msrs(int vcpu, const uint32_t *numbers, const uint64_t *values, int count) {
    union msr_batch batch;
    if (count < 0 || count > 256) {
        errno = E2BIG;
        return -1;
    }
    memset(&batch, 0, sizeof batch);
    batch.list.nmsrs = (uint32_t)count;
    for (int i = 0; i < count; i++) {
        batch.list.entries[i].index = numbers[i];
        batch.list.entries[i].data = values[i];
    }
    return ioctl(vcpu, KVM_SET_MSRS, &batch);
}

_Static_assert(sizeof(struct kvm_lapic_state) == 1024, "the local APIC's registers are 1,024 bytes");
int ospite_kvm_get_lapic(int vcpu, void *registers) { return ioctl(vcpu, KVM_GET_LAPIC, registers); }
int ospite_kvm_set_lapic(int vcpu, const void *registers) { return ioctl(vcpu, KVM_SET_LAPIC, registers); }

int ospite_kvm_get_mp_state(int vcpu) {
    struct kvm_mp_state state;
    return ioctl(vcpu, KVM_GET_MP_STATE, &state) < 0 ? -1 : (int)state.mp_state;
}

int ospite_kvm_set_mp_state(int vcpu, uint32_t value) {
    struct kvm_mp_state state = {.mp_state = value};
    return ioctl(vcpu, KVM_SET_MP_STATE, &state);
}

int ospite_kvm_get_events(int vcpu, struct ospite_kvm_events *out) {
    struct kvm_vcpu_events e;
    memset(&e, 0, sizeof e);
    if (ioctl(vcpu, KVM_GET_VCPU_EVENTS, &e) < 0) return -1;
    *out = (struct ospite_kvm_events){
        .exception_pending = e.exception.injected || e.exception.pending, .exception_vector = e.exception.nr,
        .exception_has_error = e.exception.has_error_code, .exception_error = e.exception.error_code,
        .interrupt_pending = e.interrupt.injected, .interrupt_vector = e.interrupt.nr,
        .interrupt_is_software = e.interrupt.soft, .interrupt_shadow = e.interrupt.shadow,
        .nmi_injected = e.nmi.injected, .nmi_pending = e.nmi.pending, .nmi_blocked = e.nmi.masked};
    return 0;
}

int ospite_kvm_set_events(int vcpu, const struct ospite_kvm_events *in) {
    struct kvm_vcpu_events e;
    // What we do not carry (SMM, triple fault) stays as the kernel has it.
    memset(&e, 0, sizeof e);
    if (ioctl(vcpu, KVM_GET_VCPU_EVENTS, &e) < 0) return -1;
    e.exception.injected = in->exception_pending;
    e.exception.pending = 0;
    e.exception.nr = in->exception_vector;
    e.exception.has_error_code = in->exception_has_error;
    e.exception.error_code = in->exception_error;
    e.interrupt.injected = in->interrupt_pending;
    e.interrupt.nr = in->interrupt_vector;
    e.interrupt.soft = in->interrupt_is_software;
    e.interrupt.shadow = in->interrupt_shadow;
    e.nmi.injected = in->nmi_injected;
    e.nmi.pending = in->nmi_pending;
    e.nmi.masked = in->nmi_blocked;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    return ioctl(vcpu, KVM_SET_VCPU_EVENTS, &e);
}

int ospite_kvm_interrupt(int vcpu, uint32_t vector) {
    struct kvm_interrupt interrupt = {.irq = vector};
    return ioctl(vcpu, KVM_INTERRUPT, &interrupt);
}

int ospite_kvm_nmi(int vcpu) { return ioctl(vcpu, KVM_NMI, 0); }
int ospite_kvm_get_tsc_khz(int vcpu) { return ioctl(vcpu, KVM_GET_TSC_KHZ, 0); }
int ospite_kvm_set_tsc_khz(int vcpu, uint64_t khz) { return ioctl(vcpu, KVM_SET_TSC_KHZ, khz); }

int ospite_kvm_get_tsc_offset(int vcpu, uint64_t *offset) {
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
    return ioctl(vcpu, KVM_GET_DEVICE_ATTR, &attribute);
}

int ospite_kvm_set_tsc_offset(int vcpu, uint64_t offset) {
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    return ioctl(vcpu, KVM_SET_DEVICE_ATTR, &attribute);
}

int ospite_kvm_clock_was_stopped(int vcpu) { return ioctl(vcpu, KVM_KVMCLOCK_CTRL, 0); }
