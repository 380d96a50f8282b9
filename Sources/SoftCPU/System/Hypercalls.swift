import X86Architecture

/// VMCALL and VMMCALL as KVM answers them (Linux Documentation/virt/kvm/x86/hypercalls.rst).
extension CPU {
    /// The number is in RAX, arguments are in RBX, RCX, RDX and RSI, the answer goes to RAX.
    func hypercall() {
        let notPermitted: Int64 = -1, notImplemented: Int64 = -1000
        let sendInterrupts: UInt32 = 10
        let answer: Int64
        if s.cpl != 0 {
            answer = notPermitted
        } else if UInt32(truncatingIfNeeded: gpr(Register.rax)) == sendInterrupts {
            answer = sendToSet()
        } else {
            answer = notImplemented
        }
        let word = UInt64(bitPattern: answer)
        setGPR(Register.rax, is64Bit ? word : word & 0xFFFF_FFFF)
    }

    /// Sends one interrupt, an interrupt command without its destination in RSI, to a set of processors: RBX
    /// and RCX are a bitmap of APIC IDs of which the lowest is in RDX. Returns how many got it.
    private func sendToSet() -> Int64 {
        let invalid: Int64 = -22
        let command = UInt32(truncatingIfNeeded: gpr(Register.rsi))
        // Fixed or NMI, physical, no shorthand (SDM vol. 3 §11.6.1).
        let mode = command >> 8 & 7
        guard mode == 0 || mode == 4, command & 0xC_0800 == 0 else { return invalid }
        let first = UInt32(truncatingIfNeeded: gpr(Register.rdx))
        let wordBits: UInt32 = is64Bit ? 64 : 32
        var sent: Int64 = 0
        for (word, register) in [Register.rbx, Register.rcx].enumerated() {
            let bitmap = is64Bit ? gpr(register) : gpr(register) & 0xFFFF_FFFF
            for bit in 0..<wordBits where bitmap >> UInt64(bit) & 1 != 0 {
                let (identifier, overflow) = first.addingReportingOverflow(UInt32(word) * wordBits + bit)
                guard !overflow, identifier < UInt32(owner.vcpuCount) else { continue }
                sendCommand(command & 0x7FF, to: identifier)
                sent += 1
            }
        }
        return sent
    }

    /// Through the guest's own interrupt command register; the xAPIC's destination half is put back.
    private func sendCommand(_ command: UInt32, to identifier: UInt32) {
        let apic = owner.apic
        if apic.apicBase & (1 << 10) != 0 {
            _ = apic.writeMSR(MSR.x2apicFirst + 0x30, UInt64(identifier) << 32 | UInt64(command))
            return
        }
        let low: UInt32 = 0x300, high: UInt32 = 0x310
        let kept = apic.readPage(offset: high, width: .dword)
        apic.writePage(offset: high, width: .dword, value: identifier << 24)
        apic.writePage(offset: low, width: .dword, value: command)
        apic.writePage(offset: high, width: .dword, value: kept)
    }
}
