/// What CPUID answers, for an engine that shows guests the same processor.
extension SoftVCPU {
    /// EAX, EBX, ECX and EDX of one leaf as this vCPU's guest would read them now. While it does not run.
    public func identification(leaf: UInt32, subleaf: UInt32 = 0) -> (UInt32, UInt32, UInt32, UInt32) {
        let result = CPUModel.answer(leaf, subleaf, cpu)
        return (result.eax, result.ebx, result.ecx, result.edx)
    }
}
