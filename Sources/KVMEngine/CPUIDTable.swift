/// One row of a CPUID table (Intel SDM vol. 2 CPUID).
public struct CPUIDRow: Hashable, Sendable, Codable {
    public var leaf: UInt32
    public var subleaf: UInt32
    /// Whether ECX selects the row.
    public var hasSubleaf: Bool
    public var eax: UInt32
    public var ebx: UInt32
    public var ecx: UInt32
    public var edx: UInt32

    public init(
        leaf: UInt32, subleaf: UInt32 = 0, hasSubleaf: Bool = false, eax: UInt32, ebx: UInt32, ecx: UInt32,
        edx: UInt32
    ) {
        self.leaf = leaf
        self.subleaf = subleaf
        self.hasSubleaf = hasSubleaf
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx
    }
}

/// What a guest's CPUID says: a model, less what the host cannot do, with each vCPU's own numbers.
public enum CPUIDTable {
    /// Rows whose registers are sets of features: a bit that the host lacks must not be shown. Registers not
    /// named here (names, sizes, counts) pass as the model has them.
    private static func features(_ leaf: UInt32, _ subleaf: UInt32) -> (a: Bool, b: Bool, c: Bool, d: Bool)? {
        switch (leaf, subleaf) {
        case (1, _): return (false, false, true, true)
        case (7, 0): return (false, true, true, true)
        case (7, 1): return (true, true, true, true)
        case (0xD, 0): return (true, false, false, true)
        case (0xD, 1): return (true, false, true, true)
        case (0x4000_0001, _): return (true, false, false, false)
        case (0x8000_0001, _): return (false, false, true, true)
        case (0x8000_0007, _): return (false, false, false, true)
        case (0x8000_0008, _): return (false, true, false, false)
        default: return nil
        }
    }

    /// `model` without the features that `supported` does not have; `supported` itself without a model.
    public static func filtered(model: [CPUIDRow]?, supported: [CPUIDRow]) -> [CPUIDRow] {
        guard let model else { return supported }
        return model.prefix(256).map { row in
            guard let keep = features(row.leaf, row.subleaf) else { return row }
            let host = supported.first {
                $0.leaf == row.leaf && (!$0.hasSubleaf || $0.subleaf == row.subleaf)
            }
            var row = row
            if keep.a { row.eax &= host?.eax ?? 0 }
            if keep.b { row.ebx &= host?.ebx ?? 0 }
            if keep.c { row.ecx &= host?.ecx ?? 0 }
            if keep.d { row.edx &= host?.edx ?? 0 }
            return row
        }
    }

    // Leaf 1 ECX.
    private static let x2APIC: UInt32 = 1 << 21, tscDeadline: UInt32 = 1 << 24, hypervisor: UInt32 = 1 << 31

    /// KVM's paravirtual features (leaf 0x40000001 EAX) that work without the kernel's local APIC: the clocks
    /// (bits 0, 3 and 24) and the missing I/O delay (bit 1).
    private static let withoutKernelAPIC: UInt32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24

    /// The table of vCPU `index`: its APIC number, the hypervisor bit, and no features of the kernel's local
    /// APIC when the machine does not use it.
    static func table(_ rows: [CPUIDRow], vcpu index: Int, usesKernelAPIC: Bool) -> [CPUIDRow] {
        let number = UInt32(truncatingIfNeeded: index)
        return rows.map { row in
            var row = row
            switch row.leaf {
            case 1:
                row.ebx = (row.ebx & 0x00FF_FFFF) | number << 24
                row.ecx |= hypervisor
                if usesKernelAPIC {
                    row.ecx |= x2APIC | tscDeadline
                } else {
                    row.ecx &= ~(x2APIC | tscDeadline)
                }
            case 0x4000_0001 where !usesKernelAPIC: row.eax &= withoutKernelAPIC
            case 0xB, 0x1F: row.edx = number
            case 0x8000_001E: row.eax = number
            default: break
            }
            return row
        }
    }
}
