internal import X86Architecture

/// What each packet does while the machine stands still. A packet that is not known is answered with an empty
/// one; gdb then does without.
extension GDBSession {
    mutating func handle(_ payload: ArraySlice<UInt8>, _ target: inout some DebugTarget) -> DebugAction? {
        guard let command = payload.first else {
            reply("")
            return nil
        }
        var fields = PacketFields(payload.dropFirst())
        switch command {
        case UInt8(ascii: "?"): replyLastStop()
        case UInt8(ascii: "g"): reply(Hex.text(RegisterFile.all(of: target.state(ofVCPU: selected))))
        case UInt8(ascii: "G"): writeAllRegisters(&fields, &target)
        case UInt8(ascii: "p"): readRegister(&fields, target)
        case UInt8(ascii: "P"): writeRegister(&fields, &target)
        case UInt8(ascii: "m"): readMemory(&fields, target)
        case UInt8(ascii: "M"): writeMemory(&fields, &target, isBinary: false)
        case UInt8(ascii: "X"): writeMemory(&fields, &target, isBinary: true)
        case UInt8(ascii: "Z"): insertPoint(&fields, &target)
        case UInt8(ascii: "z"): removePoint(&fields, &target)
        case UInt8(ascii: "H"): selectThread(&fields, target)
        case UInt8(ascii: "T"): askWhetherAlive(&fields, target)
        case UInt8(ascii: "c"), UInt8(ascii: "s"), UInt8(ascii: "C"), UInt8(ascii: "S"):
            return goOn(command, &fields, &target)
        case UInt8(ascii: "v"): return handleLong(&fields, &target)
        case UInt8(ascii: "q"): answer(&fields, &target)
        case UInt8(ascii: "Q"): set(&fields)
        case UInt8(ascii: "D"):
            reply("OK")
            return .detach
        case UInt8(ascii: "k"): return .kill
        default: reply("")
        }
        return nil
    }

    // MARK: Registers

    private mutating func writeAllRegisters(_ fields: inout PacketFields, _ target: inout some DebugTarget) {
        guard let bytes = Hex.bytes(fields.takeAll()), bytes.count == RegisterFile.allByteCount else {
            return refuse(.invalid)
        }
        var state = target.state(ofVCPU: selected)
        var rest = bytes[...]
        var isComplete = true
        for row in RegisterFile.rows {
            if !RegisterFile.set(row, to: rest.prefix(row.byteCount), in: &state) { isComplete = false }
            rest = rest.dropFirst(row.byteCount)
        }
        guard isComplete else { return refuse(.invalid) }
        target.load(state, intoVCPU: selected)
        reply("OK")
    }

    private func row(_ fields: inout PacketFields) -> RegisterRow? {
        guard let number = fields.number(), number < UInt64(RegisterFile.rows.count) else { return nil }
        return RegisterFile.rows[Int(number)]
    }

    private mutating func readRegister(_ fields: inout PacketFields, _ target: some DebugTarget) {
        guard let row = row(&fields), fields.isAtEnd else { return refuse(.invalid) }
        reply(Hex.text(RegisterFile.bytes(of: row, target.state(ofVCPU: selected))))
    }

    private mutating func writeRegister(_ fields: inout PacketFields, _ target: inout some DebugTarget) {
        guard let row = row(&fields), fields.skip("="), let bytes = Hex.bytes(fields.takeAll()) else {
            return refuse(.invalid)
        }
        var state = target.state(ofVCPU: selected)
        guard RegisterFile.set(row, to: bytes[...], in: &state) else { return refuse(.invalid) }
        target.load(state, intoVCPU: selected)
        reply("OK")
    }

    // MARK: Memory

    private var space: DebugAddressSpace { isPhysical ? .physical : .linear(vcpu: selected) }

    /// What fits in one answer.
    private static let mostBytes = UInt64(PacketReader.longestPayload / 2)

    private mutating func readMemory(_ fields: inout PacketFields, _ target: some DebugTarget) {
        guard let (address, count) = fields.pair(), fields.isAtEnd else { return refuse(.invalid) }
        let bytes = target.readMemory(address, count: Int(min(count, Self.mostBytes)), in: space)
        guard !bytes.isEmpty || count == 0 else { return refuse(.badAddress) }
        reply(Hex.text(bytes))
    }

    private mutating func writeMemory(
        _ fields: inout PacketFields, _ target: inout some DebugTarget, isBinary: Bool
    ) {
        guard let (address, count) = fields.pair(), fields.skip(":"),
            let bytes = isBinary ? Array(fields.takeAll()) : Hex.bytes(fields.takeAll()),
            UInt64(bytes.count) == count
        else { return refuse(.invalid) }
        guard bytes.isEmpty || target.writeMemory(bytes, at: address, in: space) else {
            return refuse(.badAddress)
        }
        reply("OK")
    }

    // MARK: Breakpoints

    private func point(_ fields: inout PacketFields) -> DebugPoint? {
        guard let number = fields.number(), let kind = DebugPoint.Kind(rawValue: Int(clamping: number)),
            fields.skip(","), let (address, length) = fields.pair()
        else { return nil }
        return DebugPoint(kind: kind, address: address, length: length)
    }

    private mutating func insertPoint(_ fields: inout PacketFields, _ target: inout some DebugTarget) {
        guard let point = point(&fields), target.insert(point) else { return refuse(.invalid) }
        reply("OK")
    }

    private mutating func removePoint(_ fields: inout PacketFields, _ target: inout some DebugTarget) {
        guard let point = point(&fields) else { return refuse(.invalid) }
        target.remove(point)
        reply("OK")
    }

    // MARK: Threads

    /// A thread's number; `all` for -1, which means all of them, and 0, which means any.
    private enum ThreadName { case all, any, vcpu(Int) }

    private func thread(_ fields: inout PacketFields, _ target: some DebugTarget) -> ThreadName? {
        if fields.skip("-1") { return .all }
        guard let number = fields.number() else { return nil }
        if number == 0 { return .any }
        guard number <= UInt64(target.vcpuCount) else { return nil }
        return .vcpu(Int(number) - 1)
    }

    private mutating func selectThread(_ fields: inout PacketFields, _ target: some DebugTarget) {
        let isForRegisters = fields.skip("g")
        guard isForRegisters || fields.skip("c"), let thread = thread(&fields, target), fields.isAtEnd else {
            return refuse(.invalid)
        }
        switch (thread, isForRegisters) {
        case (.vcpu(let index), true): selected = index
        case (.vcpu(let index), false): resumed = index
        case (_, true): break
        case (_, false): resumed = nil
        }
        reply("OK")
    }

    private mutating func askWhetherAlive(_ fields: inout PacketFields, _ target: some DebugTarget) {
        guard case .vcpu? = thread(&fields, target) else { return refuse(.invalid) }
        reply("OK")
    }

    // MARK: Going on

    /// `c`, `s`, and with a signal, which a machine has none of.
    private mutating func goOn(
        _ command: UInt8, _ fields: inout PacketFields, _ target: inout some DebugTarget
    ) -> DebugAction? {
        let hasSignal = command == UInt8(ascii: "C") || command == UInt8(ascii: "S")
        let steps = command == UInt8(ascii: "s") || command == UInt8(ascii: "S")
        let vcpu = resumed ?? selected
        if hasSignal {
            guard fields.number() != nil, fields.isAtEnd || fields.skip(";") else {
                refuse(.invalid)
                return nil
            }
        }
        if !fields.isAtEnd {
            guard let address = fields.number(), fields.isAtEnd else {
                refuse(.invalid)
                return nil
            }
            var state = target.state(ofVCPU: vcpu)
            state.rip = address
            target.load(state, intoVCPU: vcpu)
        }
        markRunning()
        return steps
            ? .resume(running: [], stepping: [vcpu])
            : .resume(running: Set(0..<target.vcpuCount), stepping: [])
    }

    private mutating func handleLong(
        _ fields: inout PacketFields, _ target: inout some DebugTarget
    ) -> DebugAction? {
        if fields.skip("Cont?") {
            reply("vCont;c;C;s;S")
        } else if fields.skip("Cont;") {
            guard let action = plan(&fields, target) else {
                refuse(.invalid)
                return nil
            }
            markRunning()
            return action
        } else if fields.skip("Kill") {
            reply("OK")
            return .kill
        } else {
            reply("")
        }
        return nil
    }

    /// The actions of vCont: the first that names a thread counts. Nil: they make no sense, or nothing would
    /// run.
    private func plan(_ fields: inout PacketFields, _ target: some DebugTarget) -> DebugAction? {
        var running: Set<Int> = [], stepping: Set<Int> = []
        var open = Set(0..<target.vcpuCount)
        repeat {
            guard let steps = step(&fields) else { return nil }
            var chosen = open
            if fields.skip(":") {
                switch thread(&fields, target) {
                case .all: break
                case .any: chosen = open.filter { $0 == selected }
                case .vcpu(let index): chosen = open.filter { $0 == index }
                case nil: return nil
                }
            }
            open.subtract(chosen)
            if steps { stepping.formUnion(chosen) } else { running.formUnion(chosen) }
        } while fields.skip(";")
        guard fields.isAtEnd, !running.isEmpty || !stepping.isEmpty else { return nil }
        return .resume(running: running, stepping: stepping)
    }

    /// Whether the next action of vCont steps. Nil: there is none that we know.
    private func step(_ fields: inout PacketFields) -> Bool? {
        if fields.skip("c") { return false }
        if fields.skip("s") { return true }
        if fields.skip("C") { return fields.number() == nil ? nil : false }
        if fields.skip("S") { return fields.number() == nil ? nil : true }
        return nil
    }
}
