/// The bodies of MMX, SSE, AVX and x87 instructions and of those that save and restore their state.
enum VectorBodies {
    /// One row per mnemonic. Instructions that `VectorLowering.prepare` planned go by their plan.
    static let table: [(Mnemonic, Handler)] = {
        var seen = Set<Mnemonic>()
        var result: [(Mnemonic, Handler)] = unplanned
        for index in 0..<InstructionRow.count {
            let row = InstructionRow(index: UInt16(index))
            guard !row.attributes.isDisjoint(with: VectorLowering.attributes) else { continue }
            if seen.insert(row.mnemonic).inserted { result.append((row.mnemonic, planned)) }
        }
        return result
    }()

    /// Jumps to the plan's handler.
    static let planned: Handler = { cpu, op in
        let prepared = Op(address: op).o.immediate
        return VectorLowering.handler(prepared)(cpu, op)
    }

    static let undefined: Handler = {
        stepAny($0, $1) { _, _ throws(Fault) in throw .undefinedOpcode }
    }

    /// What executes an instruction with a plan.
    static func handler(_ i: Instruction) -> Handler { special(i) ?? FastVector.handler(i) ?? thunked(i) }

    /// Whether the instruction has a thunk at all.
    static func needsCode(_ i: Instruction) -> Bool { special(i) == nil }

    private static func thunked(_ i: Instruction) -> Handler { i.attributes.contains(.x87) ? x87 : vector }

    static let vector: Handler = {
        stepVector($0, $1) { cpu, i, plan, _ throws(Fault) in try cpu.executeVector(i, plan) }
    }

    private static let x87: Handler = {
        stepVector($0, $1) { cpu, i, plan, op throws(Fault) in try cpu.executeX87(i, plan, op) }
    }

    // MARK: Instructions without a thunk

    private static func special(_ i: Instruction) -> Handler? {
        if i.attributes.contains(.x87) { return x87Control(i.mnemonic) }
        let isVEX = i.prefixes.contains(.vex)
        switch (i.opcodeMap, i.opcode) {
        case (1, 0x77): return !isVEX ? emms : i.vexL != 0 ? zeroAll : zeroUpper
        case (1, 0xAE): return i.modRM >> 3 & 7 == 2 ? loadMXCSR : storeMXCSR
        case (1, 0xF7): return maskedBytes
        case (2, 0x2C...0x2F) where isVEX: return maskedElements
        case (2, 0x8C) where isVEX, (2, 0x8E) where isVEX: return maskedElements
        case (2, 0x90...0x93) where isVEX: return gather
        default: return nil
        }
    }

    private static func x87Control(_ mnemonic: Mnemonic) -> Handler? {
        switch mnemonic {
        case .fninit: initialise
        case .fnclex: clearExceptions
        case .fldcw: loadControl
        case .fnstcw: storeControl
        case .fnstsw: storeStatus
        case .fnstenv: storeEnvironment
        case .fldenv: loadEnvironment
        case .fnsave: saveState
        case .frstor: restoreState
        case .fneni, .fndisi, .fnsetpm: nothing
        default: nil
        }
    }

    // swift-format-ignore
    private static let unplanned: [(Mnemonic, Handler)] = [
        (.fwait,    { stepAny($0, $1) { cpu, _ throws(Fault) in try cpu.waitForX87() } }),
        (.fxsave,   { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.saveFX(i) } }),
        (.fxrstor,  { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.restoreFX(i) } }),
        (.xsave,    { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.saveExtended(i, .standard) } }),
        (.xsaveopt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.saveExtended(i, .optimised) } }),
        (.xsavec,   { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.saveExtended(i, .compacted) } }),
        (.xsaves,   { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.saveExtended(i, .supervisor) } }),
        (.xrstor,   { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.restoreExtended(i) } }),
        (.xrstors,  { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.restoreSupervisor(i) } }),
    ]

    private static let emms: Handler = {
        stepVector($0, $1) { cpu, _, _, _ throws(Fault) in try cpu.emptyMMX() }
    }
    private static let zeroAll: Handler = {
        stepVector($0, $1) { cpu, _, _, _ throws(Fault) in try cpu.zeroVectors(low: true) }
    }
    private static let zeroUpper: Handler = {
        stepVector($0, $1) { cpu, _, _, _ throws(Fault) in try cpu.zeroVectors(low: false) }
    }
    private static let loadMXCSR: Handler = {
        stepVector($0, $1) { cpu, i, plan, _ throws(Fault) in try cpu.loadMXCSR(i, plan) }
    }
    private static let storeMXCSR: Handler = {
        stepVector($0, $1) { cpu, i, plan, _ throws(Fault) in try cpu.storeMXCSR(i, plan) }
    }
    private static let maskedBytes: Handler = {
        stepVector($0, $1) { cpu, i, plan, _ throws(Fault) in try cpu.storeMaskedBytes(i, plan) }
    }
    private static let maskedElements: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.moveMaskedElements(i) }
    }
    private static let gather: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.gather(i) }
    }
    private static let initialise: Handler = {
        stepVector($0, $1) { cpu, _, _, _ throws(Fault) in try cpu.initialiseX87() }
    }
    private static let clearExceptions: Handler = {
        stepVector($0, $1) { cpu, _, _, _ throws(Fault) in try cpu.clearX87Exceptions() }
    }
    private static let loadControl: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.loadX87Control(i) }
    }
    private static let storeControl: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.storeX87Control(i) }
    }
    private static let storeStatus: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.storeX87Status(i) }
    }
    private static let storeEnvironment: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.storeX87Environment(i) }
    }
    private static let loadEnvironment: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.loadX87Environment(i) }
    }
    private static let saveState: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.saveX87(i) }
    }
    private static let restoreState: Handler = {
        stepVector($0, $1) { cpu, i, _, _ throws(Fault) in try cpu.restoreX87(i) }
    }
    private static let nothing: Handler = {
        stepVector($0, $1) { cpu, _, _, _ throws(Fault) in try cpu.checkX87(waiting: false) }
    }
}
