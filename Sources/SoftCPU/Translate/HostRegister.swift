/// The host's general registers as translated code uses them.
///
/// ```
/// guest  rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15
/// host   r14 rcx rdx rbx r15 rbp rsi rdi r8 -   -   -  r12 r13  -   -
/// ```
/// The five without a register live in `CPUState.gpr`. RAX carries the guest's status flags where host
/// instructions of ours would destroy them (`lahf`, `seto al`), and helps out for instructions that name it.
/// R10 and R11 compute addresses, and R10 stands in for a guest register in memory. RSP is the return stack
/// (`ReturnStack`). R9 points at the current translation cache, with the CPUState in front of it.
enum HostRegister {
    static let rax: UInt8 = 0, rcx: UInt8 = 1, rdx: UInt8 = 2, rsp: UInt8 = 4, rsi: UInt8 = 6, rdi: UInt8 = 7
    /// The address, then the host address, of a memory operand.
    static let address: UInt8 = 10
    /// Index of the translation cache's entry; free after the probe.
    static let index: UInt8 = 11
    /// The window in use (StateWindows.swift). A register and not GS: a base in GS costs Intel's processors
    /// two to three cycles in each load, on the way from one load's result to the next.
    static let window: UInt8 = 9
    /// The guest's RAX and RSP.
    static let guestRAX: UInt8 = 14, guestRSP: UInt8 = 15
    /// Not a register: the guest's register is in memory.
    static let none: UInt8 = 0xFF

    /// The host register of guest register `number` (0...15), or `none`.
    @inline(__always) static func of(_ number: UInt8) -> UInt8 {
        // One nibble per guest register; 0, which no guest register lives in, stands for none.
        let map: UInt64 = 0x00DC_0008_76_5F_32_1E
        let nibble = UInt8(truncatingIfNeeded: map >> UInt64(number * 4)) & 15
        return nibble == 0 ? none : nibble
    }

    /// Guest registers that have a host register, with it.
    static let pinned: [(guest: UInt8, host: UInt8)] = (0..<16 as Range<UInt8>).compactMap { number in
        let host = of(number)
        return host == none ? nil : (number, host)
    }
    /// Those of them that a C function may change.
    static let volatile = pinned.filter { ![3, 5, 12, 13, 14, 15].contains($0.host) }
}
