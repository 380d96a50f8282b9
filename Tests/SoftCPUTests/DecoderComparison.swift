@testable import SoftCPU

/// Compares one decoding of ours with the reference's. Names of ours that stand for several of theirs are in
/// `aliases`; what we do differently on purpose is in `DecoderDisagreements`.
enum DecoderComparison {
    /// The first difference in a few words, nil when there is none.
    static func difference(_ ours: Instruction, _ theirs: ReferenceDecoder.Result) -> String? {
        if Int(ours.length) != theirs.length { return "length \(ours.length), reference \(theirs.length)" }
        if !names(ours).contains(theirs.mnemonic) { return "name" }
        if let difference = operandDifference(ours, theirs) { return difference }
        let isPrivileged = !ours.attributes.isDisjoint(with: [.privileged, .undefinedUnlessPrivileged])
        if isPrivileged != theirs.isPrivileged { return "privilege" }
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
        "fcom": ["fcom", "fcom2"], "fcomp": ["fcomp", "fcomp3", "fcomp5"],
        "fxch": ["fxch", "fxch4", "fxch7"],
        "fstp": ["fstp", "fstp1", "fstp8", "fstp9", "fstpnce"], "fneni": ["feni8087_nop"],
        "fndisi": ["fdisi8087_nop"], "fnsetpm": ["fsetpm287_nop"], "pextrd": ["pextrd", "pextrq"],
        "pinsrd": ["pinsrd", "pinsrq"], "vmovd": ["vmovd", "vmovq"], "vpextrd": ["vpextrd", "vpextrq"],
        "vpinsrd": ["vpinsrd", "vpinsrq"], "sal": ["shl", "sal"], "sysret": ["sysret"],
        "fxsave": ["fxsave", "fxsave64"], "fxrstor": ["fxrstor", "fxrstor64"], "xsave": ["xsave", "xsave64"],
        "xrstor": ["xrstor", "xrstor64"], "xsaveopt": ["xsaveopt", "xsaveopt64"],
        "xsavec": ["xsavec", "xsavec64"], "xsaves": ["xsaves", "xsaves64"],
        "xrstors": ["xrstors", "xrstors64"],
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

    /// Position by position; where the reference hides implicit operands, every operand of ours must be one
    /// of its operands and every visible one of its must be one of ours.
    private static func operandDifference(
        _ ours: Instruction, _ theirs: ReferenceDecoder.Result
    ) -> String? {
        let count = Int(ours.operandCount), visible = theirs.operands.prefix(theirs.visibleCount)
        if count == visible.count {
            for (position, reference) in visible.enumerated() {
                guard let difference = operandDifference(ours.operand(position), reference, ours) else {
                    continue
                }
                return "operand \(position): \(difference)"
            }
            return nil
        }
        let mine = (0..<count).map { ours.operand($0) }
        for operand in mine
        where !theirs.operands.contains(where: { operandDifference(operand, $0, ours) == nil }) {
            return "\(operand.kind) unknown to the reference"
        }
        for reference in visible
        where !mine.contains(where: { operandDifference($0, reference, ours) == nil }) {
            return "\(reference.kind) of the reference missing"
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
            let value =
                operand.kind == .one ? 1 : operand.kind == .immediate2 ? ours.immediate2 : ours.immediate
            guard [.one, .immediate, .immediate2, .relative].contains(operand.kind) else {
                return "\(operand.kind), reference immediate"
            }
            // The table says how an immediate extends; the reference sign-extends for display.
            let extended = operand.size >= 8 ? ~0 : (1 << (UInt64(operand.size) * 8)) - 1 as UInt64
            if (value ^ reference.immediate) & extended != 0 { return "immediate" }
            if (operand.kind == .relative) != reference.isRelative { return "relative" }
        }
        // A partial or conditional write of ours also counts as a read.
        let mayMerge = operand.isRead && operand.isWritten
        if operand.isRead != reference.isRead && !mayMerge || operand.isWritten != reference.isWritten {
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
        if reference.memoryType != 2, UInt32(segment) + 198 != reference.segment {
            return "segment \(segment)"
        }
        var base = ours.base, index = ours.index, displacement = ours.displacement
        switch operand.kind {
        case .memory: break
        case .memoryVectorIndex: if reference.memoryType != 4 { return "kind" }
        case .stringSource: (base, index, displacement) = (6, Instruction.noRegister, 0)
        case .stringDestination: (base, index, displacement) = (7, Instruction.noRegister, 0)
        case .tableLookup: (base, index, displacement) = (3, Instruction.noRegister, 0)
        default: return "\(operand.kind), reference memory"
        }
        let theirBase = referenceRegister(reference.base), theirIndex = referenceRegister(reference.index)
        if base != theirBase?.number ?? Instruction.noRegister { return "base \(base)" }
        if let theirBase, theirBase.size != ours.addressSize { return "address size \(ours.addressSize)" }
        if index != theirIndex?.number ?? Instruction.noRegister { return "index \(index)" }
        if operand.kind == .memoryVectorIndex && theirIndex?.size != ours.vectorIndexSize {
            return "index size"
        }
        if index != Instruction.noRegister, operand.kind == .memory || operand.kind == .memoryVectorIndex,
            max(reference.scale, 1) != 1 << ours.scaleShift
        {
            return "scale"
        }
        // A direct address is unsigned; the reference sign-extends it for display.
        let isDirect = ours.modRMOffset == 0 && ours.displacementSize < 8
        let counted: Int64 = isDirect ? (1 << (Int64(ours.displacementSize) * 8)) - 1 : -1
        return (displacement ^ reference.displacement) & counted == 0 ? nil : "displacement"
    }

    private static func flagDifference(_ ours: Instruction, _ theirs: ReferenceDecoder.Result) -> String? {
        let status: UInt32 = 0xCD5 | 0x200
        func difference(_ what: String, _ word: UInt16, _ reference: UInt32) -> String? {
            if UInt32(word) & status == reference & status { return nil }
            return "flags \(what) \(String(UInt32(word) & status, radix: 16)), "
                + "reference \(String(reference & status, radix: 16))"
        }
        return difference("read", ours.flagsRead, theirs.flagsTested)
            ?? difference("written", ours.flagsWritten, theirs.flagsModified & ~theirs.flagsUndefined)
            ?? difference("undefined", ours.flagsUndefined, theirs.flagsUndefined)
    }
}
