/// What a processor of another engine had, which a guest that comes from there knows: the software CPU then
/// shows no more than that.
public struct ProcessorLimits: Sendable {
    /// One CPUID leaf: EAX, EBX, ECX and EDX each with ones where the guest may see a bit.
    public typealias Mask = (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32)
    /// At most as many physical address bits as the model has; nil: all.
    public var physicalAddressBits: UInt32?
    private var masks: [UInt64: (UInt32, UInt32, UInt32, UInt32)] = [:]

    public init() {}

    /// Limits one leaf. Leaves whose answer does not depend on ECX have subleaf 0.
    public mutating func limit(leaf: UInt32, subleaf: UInt32 = 0, to mask: Mask) {
        masks[UInt64(leaf) << 32 | UInt64(subleaf)] = (mask.eax, mask.ebx, mask.ecx, mask.edx)
    }

    func apply(to result: inout CPUIDResult, leaf: UInt32, subleaf: UInt32) {
        if leaf == 0x8000_0008, let bits = physicalAddressBits {
            result.eax = result.eax & ~0xFF | min(result.eax & 0xFF, bits)
        }
        // Only leaves 7 and 0xD among the limited ones look at ECX.
        let subleaf = leaf == 7 || leaf == 0xD ? subleaf : 0
        guard let mask = masks[UInt64(leaf) << 32 | UInt64(subleaf)] else { return }
        result.eax &= mask.0
        result.ebx &= mask.1
        result.ecx &= mask.2
        result.edx &= mask.3
    }
}

/// What CPUID answers, for an engine that shows guests the same processor.
extension SoftVCPU {
    /// EAX, EBX, ECX and EDX of one leaf as this vCPU's guest would read them now. While it does not run.
    public func identification(leaf: UInt32, subleaf: UInt32 = 0) -> (UInt32, UInt32, UInt32, UInt32) {
        let result = CPUModel.answer(leaf, subleaf, cpu)
        return (result.eax, result.ebx, result.ecx, result.edx)
    }
}
