internal import KVMEngine
internal import SoftCPU
internal import VCPUEngine

/// The processor that guests see on KVM: the software CPU's model, less what this KVM cannot do. So a guest
/// may change from KVM to the software CPU at any instruction and finds the processor that it knows.
///
/// One thing differs: the software CPU runs nothing speculatively and says so, where a host's processor needs
/// the guest's counter-measures. What the host offers for them is added, and no immunity is claimed that it
/// has not.
enum SharedProcessor {
    /// CPUID leaves whose answer depends on ECX, with the subleaves that the model has.
    private static let subleaves: [UInt32: UInt32] = [7: 1, 0xB: 2, 0xD: 3]

    static func rows(model: SoftVCPU, supported: [CPUIDRow]) -> [CPUIDRow] {
        var rows: [CPUIDRow] = []
        for first in [0, 0x4000_0000, 0x8000_0000] as [UInt32] {
            // The first leaf of each range says which one is the last; leaf 0x40000010 is not far.
            let last = min(max(model.identification(leaf: first).0, first), first + 0x40)
            for leaf in first...last {
                if let count = subleaves[leaf] {
                    for subleaf in 0..<count { rows.append(row(model, leaf, subleaf, true)) }
                } else {
                    rows.append(row(model, leaf, 0, false))
                }
            }
        }
        return rows.map { adapt($0, to: supported) }
    }

    /// What a guest that saw `rows` may see after it moved to the software CPU: a kernel looks more than
    /// once, and a feature that appears late is one that nobody enabled.
    static func limits(_ rows: [CPUIDRow]) -> ProcessorLimits {
        var limits = ProcessorLimits()
        // Bit 27 of leaf 1 ECX says what the guest wrote to CR4, and sizes say what it wrote to XCR0.
        let all = UInt32.max, osXSAVE: UInt32 = 1 << 27
        // Without the kernel's local APIC, KVM shows neither x2APIC nor the TSC deadline.
        let kernelAPIC: UInt32 = 1 << 21 | 1 << 24
        for row in rows {
            let mask: ProcessorLimits.Mask?
            switch (row.leaf, row.subleaf) {
            case (1, _): mask = (all, all, row.ecx & ~kernelAPIC | osXSAVE, row.edx)
            case (7, 0): mask = (all, row.ebx, row.ecx, row.edx)
            case (0xD, 0): mask = (row.eax, all, all, row.edx)
            case (0xD, 1): mask = (row.eax, all, row.ecx, row.edx)
            // Clocks and no I/O delay: what else KVM offers needs the kernel's local APIC.
            case (0x4000_0001, _): mask = (row.eax & bits([0, 1, 3, 24]), all, all, all)
            case (0x8000_0001, _): mask = (all, all, row.ecx, row.edx)
            case (0x8000_0007, _): mask = (all, all, all, row.edx)
            case (0x8000_0008, _): mask = (all, row.ebx, all, all)
            case (0x8000_0021, _): mask = (row.eax, all, row.ecx, all)
            default: mask = nil
            }
            if let mask { limits.limit(leaf: row.leaf, subleaf: row.subleaf, to: mask) }
        }
        return limits
    }

    private static func row(_ model: SoftVCPU, _ leaf: UInt32, _ subleaf: UInt32, _ hasSubleaf: Bool)
        -> CPUIDRow
    {
        let (eax, ebx, ecx, edx) = model.identification(leaf: leaf, subleaf: subleaf)
        return CPUIDRow(
            leaf: leaf, subleaf: subleaf, hasSubleaf: hasSubleaf, eax: eax, ebx: ebx, ecx: ecx, edx: edx)
    }

    private static func bits(_ numbers: [UInt32]) -> UInt32 { numbers.reduce(0) { $0 | 1 << $1 } }

    /// Leaf 7 EDX: VERW clears buffers, SPEC_CTRL, STIBP, ARCH_CAPABILITIES, SSBD (Intel SDM vol. 2, CPUID).
    private static let intelMeasures = bits([10, 26, 27, 29, 31])
    /// Leaf 8000_0008 EBX: IBPB, IBRS, STIBP, both always on, preferred IBRS, SSBD, PSFD (AMD APM vol. 3).
    private static let amdMeasures = bits([12, 14, 15, 16, 17, 18, 24, 28])

    /// Protection keys are the software CPU's own: a host's PKRU lies elsewhere in XSAVE's images.
    private static func withoutKeys(_ row: CPUIDRow) -> CPUIDRow {
        let keys = bits([3, 4, 31]), component = bits([9])
        var row = row
        switch (row.leaf, row.subleaf) {
        case (7, 0): row.ecx &= ~keys
        case (0xD, 0):
            row.eax &= ~component
            row.ecx = row.eax & 4 != 0 ? 832 : 576
        default: break
        }
        return row
    }

    private static func adapt(_ row: CPUIDRow, to supported: [CPUIDRow]) -> CPUIDRow {
        var row = withoutKeys(row)
        guard let host = supported.first(where: { $0.leaf == row.leaf && $0.subleaf == row.subleaf }) else {
            return row
        }
        switch row.leaf {
        case 7: row.edx |= host.edx & intelMeasures
        case 0x8000_0008:
            row.ebx |= host.ebx & amdMeasures
            // Physical address bits beyond the host's do not work.
            row.eax = row.eax & ~0xFF | min(row.eax & 0xFF, host.eax & 0xFF)
        case 0x8000_0021:
            row.eax &= host.eax
            row.ecx &= host.ecx
        default: break
        }
        return row
    }
}
