@testable import SoftCPU

/// Compares one decoding of ours with the reference's. Names of ours that stand for several of theirs are in `aliases`;
/// what we do differently on purpose is in `DecoderDisagreements`.
enum DecoderComparison {
    /// The first difference in a few words, nil when there is none.
    static func difference(_ ours: Instruction, _ theirs: ReferenceDecoder.Result) -> String? {
        if Int(ours.length) != theirs.length { return "length \(ours.length), reference \(theirs.length)" }
        if !names(ours).contains(theirs.mnemonic) { return "name" }
        if let difference = operandDifference(ours, theirs) { return difference }
        return flagDifference(ours, theirs)
    }

    private static let conditions = [
        "o", "no", "b", "nb", "z", "nz", "be", "nbe", "s", "ns", "p", "np", "l", "nl", "le", "nle",
    ]
    private static let bySize: [Mnemonic: [Int: String]] = [
        .pusha: [2: "pusha", 4: "pushad"], .popa: [2: "popa", 4: "popad"],
        .pushf: [2: "pushf", 4: "pushfd", 8: "pushfq"], .popf: [2: "popf", 4: "popfd", 8: "popfq"],
        .iret: [2: "iret", 4: "iretd", 8: "iretq"],
    ]
    private static let byAddressSize: [Mnemonic: [Int: String]] = [
        .jcxz: [2: "jcxz", 4: "jecxz", 8: "jrcxz"]
    ]
    private static let strings: Set<Mnemonic> = [.movs, .cmps, .stos, .lods, .scas, .ins, .outs]
    /// Ours: theirs.
    static let aliases: [String: Set<String>] = [
        "callf": ["call"], "jmpf": ["jmp"], "retf": ["ret"], "movd": ["movd", "movq"], "fwait": ["fwait"],
        "fcom": ["fcom", "fcom2"], "fcomp": ["fcomp", "fcomp3", "fcomp5"], "fxch": ["fxch", "fxch4", "fxch7"],
        "fstp": ["fstp", "fstp1", "fstp8", "fstp9", "fstpnce"], "fneni": ["feni8087_nop"],
        "fndisi": ["fdisi8087_nop"], "fnsetpm": ["fsetpm287_nop"], "pextrd": ["pextrd", "pextrq"],
        "pinsrd": ["pinsrd", "pinsrq"], "vmovd": ["vmovd", "vmovq"], "vpextrd": ["vpextrd", "vpextrq"],
        "vpinsrd": ["vpinsrd", "vpinsrq"], "sal": ["shl", "sal"], "sysret": ["sysret"],
        "fxsave": ["fxsave", "fxsave64"], "fxrstor": ["fxrstor", "fxrstor64"], "xsave": ["xsave", "xsave64"],
        "xrstor": ["xrstor", "xrstor64"], "xsaveopt": ["xsaveopt", "xsaveopt64"],
        "xsavec": ["xsavec", "xsavec64"], "xsaves": ["xsaves", "xsaves64"], "xrstors": ["xrstors", "xrstors64"],
        "int1": ["int1"], "xlat": ["xlat"],
    ]

    private static func names(_ ours: Instruction) -> Set<String> {
        let name = ours.mnemonic.name
        if ["jcc", "setcc", "cmovcc"].contains(name) {
            return [String(name.dropLast(2)) + conditions[Int(ours.condition)]]
        }
        if let sized = bySize[ours.mnemonic]?[Int(ours.operandSize)] { return [sized] }
        if let sized = byAddressSize[ours.mnemonic]?[Int(ours.addressSize)] { return [sized] }
        if strings.contains(ours.mnemonic) {
            let size = max(ours.operand0.kind == .gpr ? 0 : ours.operand0.size, ours.operand1.size)
            let width = ours.mnemonic == .ins ? ours.operand0.size : size
            return [name + [1: "b", 2: "w", 4: "d", 8: "q"][Int(width), default: "?"]]
        }
        return aliases[name] ?? [name]
    }

    private static func operandDifference(
        _ ours: Instruction, _ theirs: ReferenceDecoder.Result
    ) -> String? {
        if Int(ours.operandCount) != theirs.operands.count {
            return "\(ours.operandCount) operands, reference \(theirs.operands.count)"
        }
        for (position, reference) in theirs.operands.enumerated() {
            let operand = ours.operand(position)
            guard let difference = operandDifference(operand, reference, ours) else { continue }
            return "operand \(position): \(difference)"
        }
        return nil
    }

    private static func operandDifference(
        _ operand: Operand, _ reference: ReferenceDecoder.Operand, _ ours: Instruction
    ) -> String? {
        switch reference.kind {
        case .none: return "none"
        case .register:
            guard let (kind, number, size) = referenceRegister(reference.register) else {
                return "register \(reference.register)"
            }
            if operand.kind != kind || operand.register != number {
                return "\(operand.kind) \(operand.register), reference \(kind) \(number)"
            }
            if kind == .gpr && operand.size != size { return "size \(operand.size), reference \(size)" }
        case .memory:
            if let difference = memoryDifference(operand, reference, ours) { return difference }
        case .pointer:
            if operand.kind != .farPointer || ours.immediate != UInt64(reference.pointerOffset)
                || ours.immediate2 != UInt64(reference.pointerSegment)
            {
                return "far pointer"
            }
        case .immediate:
            let value = operand.kind == .one ? 1 : operand.kind == .immediate2 ? ours.immediate2 : ours.immediate
            guard [.one, .immediate, .immediate2, .relative].contains(operand.kind) else {
                return "\(operand.kind), reference immediate"
            }
            if value != reference.immediate { return "immediate" }
            if (operand.kind == .relative) != reference.isRelative { return "relative" }
        }
        if operand.isRead != reference.isRead || operand.isWritten != reference.isWritten {
            return "access r\(operand.isRead) w\(operand.isWritten)"
        }
        return nil
    }

    private static func memoryDifference(
        _ operand: Operand, _ reference: ReferenceDecoder.Operand, _ ours: Instruction
    ) -> String? {
        if operand.size != 0 && reference.memoryType == 1 && reference.bits != Int(operand.size) * 8 {
            return "size \(operand.size), reference \(reference.bits / 8)"
        }
        let segment = operand.kind == .stringDestination ? 0 : ours.segment
        if reference.memoryType != 2, UInt32(segment) + 198 != reference.segment { return "segment \(segment)" }
        var base = ours.base, index = ours.index, displacement = ours.displacement
        switch operand.kind {
        case .memory: break
        case .memoryVectorIndex: if reference.memoryType != 4 { return "kind" }
        case .stringSource: (base, index, displacement) = (6, Instruction.noRegister, 0)
        case .stringDestination: (base, index, displacement) = (7, Instruction.noRegister, 0)
        case .tableLookup: (base, index, displacement) = (3, 0, 0)
        default: return "\(operand.kind), reference memory"
        }
        let theirBase = referenceRegister(reference.base), theirIndex = referenceRegister(reference.index)
        if base != theirBase?.number ?? Instruction.noRegister { return "base \(base)" }
        if let theirBase, theirBase.size != ours.addressSize { return "address size \(ours.addressSize)" }
        if index != theirIndex?.number ?? Instruction.noRegister { return "index \(index)" }
        if operand.kind == .memoryVectorIndex && theirIndex?.size != ours.vectorIndexSize { return "index size" }
        if index != Instruction.noRegister, operand.kind == .memory || operand.kind == .memoryVectorIndex,
            max(reference.scale, 1) != 1 << ours.scaleShift
        {
            return "scale"
        }
        return displacement == reference.displacement ? nil : "displacement"
    }

    private static func flagDifference(_ ours: Instruction, _ theirs: ReferenceDecoder.Result) -> String? {
        let status: UInt32 = 0xCD5 | 0x200
        func differ(_ word: UInt16, _ reference: UInt32) -> Bool { UInt32(word) & status != reference & status }
        if differ(ours.flagsRead, theirs.flagsTested) { return "flags read" }
        if differ(ours.flagsWritten, theirs.flagsModified) { return "flags written" }
        return differ(ours.flagsUndefined, theirs.flagsUndefined) ? "flags undefined" : nil
    }
}
