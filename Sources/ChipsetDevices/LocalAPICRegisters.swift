/// Register reads and writes of the local APIC, shared by the xAPIC page and the x2APIC MSRs.
extension LocalAPICState {
    var isDeadlineMode: Bool {
        localVectors[LocalVector.timer.rawValue] & LocalVector.timerModeMask == LocalVector.tscDeadline
    }
    var isPeriodic: Bool {
        localVectors[LocalVector.timer.rawValue] & LocalVector.timerModeMask == LocalVector.periodic
    }

    /// Turns the timer's past into an interrupt.
    mutating func advanceTimer(to now: UInt64, _ effects: inout Effects) {
        if timer.advance(to: now, isPeriodic: isPeriodic) { fire(.timer, &effects) }
    }

    /// The 32-bit register `number`; nil when there is none.
    func read(_ number: UInt32, now: UInt64) -> UInt32? {
        switch number {
        case APICRegister.identifier: return isX2APIC ? identifier : identifier << 24
        case APICRegister.version: return APICLayout.version
        case APICRegister.taskPriority: return UInt32(taskPriority)
        case APICRegister.processorPriority: return UInt32(processorPriority)
        case APICRegister.arbitrationPriority, APICRegister.remoteRead: return isX2APIC ? nil : 0
        case APICRegister.endOfInterrupt: return isX2APIC ? nil : 0
        case APICRegister.logicalDestination:
            return isX2APIC ? x2APICLogicalDestination : logicalDestination
        case APICRegister.destinationFormat: return isX2APIC ? nil : destinationFormat
        case APICRegister.spuriousVector: return spuriousVector
        case APICRegister.inService: return inService.register(number & 7)
        case APICRegister.triggerMode: return levelTriggered.register(number & 7)
        case APICRegister.requests: return requested.register(number & 7)
        case APICRegister.errorStatus: return errorStatus
        case APICRegister.commandLow: return UInt32(truncatingIfNeeded: command)
        case APICRegister.commandHigh: return isX2APIC ? nil : UInt32(truncatingIfNeeded: command >> 32)
        case APICRegister.localVectors:
            return localVectors[Int(number - APICRegister.localVectors.lowerBound)]
        case APICRegister.initialCount: return timer.initialCount
        case APICRegister.currentCount: return isDeadlineMode ? 0 : timer.currentCount(now: now)
        case APICRegister.divideConfiguration: return timer.divideConfiguration
        default: return nil
        }
    }

    /// Writes register `number`. False for a register that does not exist, is read-only, or (x2APIC only)
    /// whose reserved bits are set: #GP in x2APIC mode, an illegal register error in xAPIC mode.
    mutating func write(_ number: UInt32, _ value: UInt32, now: UInt64, _ effects: inout Effects) -> Bool {
        switch number {
        case APICRegister.taskPriority:
            if isX2APIC && value > 0xFF { return false }
            taskPriority = UInt8(truncatingIfNeeded: value)
        case APICRegister.endOfInterrupt:
            if isX2APIC && value != 0 { return false }
            endOfInterrupt(&effects)
        case APICRegister.logicalDestination:
            if isX2APIC { return false }
            logicalDestination = value & 0xFF00_0000
        case APICRegister.destinationFormat:
            if isX2APIC { return false }
            destinationFormat = value | 0x0FFF_FFFF
        case APICRegister.spuriousVector:
            if isX2APIC && value & ~APICLayout.spuriousWritable != 0 { return false }
            setSpuriousVector(value & APICLayout.spuriousWritable)
        case APICRegister.errorStatus:
            if isX2APIC && value != 0 { return false }
            errorStatus = pendingErrors
            pendingErrors = 0
        case APICRegister.commandLow:
            command = command & ~0xFFFF_FFFF | UInt64(value & APICLayout.commandWritable)
            sendCommand(&effects)
        case APICRegister.commandHigh:
            if isX2APIC { return false }
            command = command & 0xFFFF_FFFF | UInt64(value & 0xFF00_0000) << 32
        case APICRegister.localVectors:
            return setLocalVector(Int(number - APICRegister.localVectors.lowerBound), value, now, &effects)
        case APICRegister.initialCount:
            // In TSC-deadline mode the count is ignored (SDM vol. 3 §11.5.4.1).
            if !isDeadlineMode { timer.setInitialCount(value, now: now) }
        case APICRegister.divideConfiguration:
            if isX2APIC && value & ~0xB != 0 { return false }
            timer.setDivideConfiguration(value, now: now, isCounting: !isDeadlineMode)
        case APICRegister.selfInterrupt:
            guard isX2APIC, value <= 0xFF else { return false }
            send(
                InterruptMessage(vector: UInt8(truncatingIfNeeded: value), mode: .fixed), toSelf: true,
                &effects)
        default: return false
        }
        return true
    }

    private mutating func setSpuriousVector(_ value: UInt32) {
        spuriousVector = value
        guard value & APICLayout.softwareEnable == 0 else { return }
        // Software disable masks every entry and keeps it masked (SDM vol. 3 §11.4.7.2).
        for index in 0..<6 { localVectors[index] |= LocalVector.masked }
    }

    private mutating func setLocalVector(
        _ index: Int, _ value: UInt32, _ now: UInt64, _ effects: inout Effects
    ) -> Bool {
        guard let kind = LocalVector(rawValue: index) else { return false }
        let readOnly = LocalVector.remoteRequest | 1 << 12
        if isX2APIC && value & ~(kind.writable | readOnly) != 0 { return false }
        let old = localVectors[index]
        var new = value & kind.writable
        if !isSoftwareEnabled { new |= LocalVector.masked }
        if new & LocalVector.level != 0 { new |= old & LocalVector.remoteRequest }
        localVectors[index] = new
        if kind == .timer {
            let wasDeadline = old & LocalVector.timerModeMask == LocalVector.tscDeadline
            if wasDeadline != isDeadlineMode {
                timer.deadline = nil
                timer.tscDeadline = 0
                timer.initialCount = 0
            }
        } else if let pin = kind == .lint0 ? 0 : kind == .lint1 ? 1 : nil {
            // A level that waits behind the mask is delivered when the mask goes.
            let waits = new & LocalVector.level != 0 && new & LocalVector.remoteRequest == 0
            if pins[pin], waits, old & LocalVector.masked != 0 { fire(kind, &effects) }
        }
        return true
    }

    private mutating func send(_ message: InterruptMessage, toSelf: Bool, _ effects: inout Effects) {
        var message = message
        if toSelf { message.shorthand = .itself }
        guard message.vector >= 16 || ![.fixed, .lowestPriority].contains(message.mode) else {
            record(APICLayout.sendIllegalVector, &effects)
            return
        }
        effects.message = message
    }

    /// Sends what ICR says (SDM vol. 3 §11.6.1).
    ///
    ///     63..32 destination (xAPIC: 63..56) | 19..18 shorthand | 15 level | 14 assert
    ///     11 logical | 10..8 delivery mode | 7..0 vector
    mutating func sendCommand(_ effects: inout Effects) {
        let low = UInt32(truncatingIfNeeded: command)
        let high = UInt32(truncatingIfNeeded: command >> 32)
        let mode = DeliveryMode(bits: low >> 8)
        // INIT level de-assert only synchronised the arbitration of processors long gone.
        if mode == .initialize && low & 0x8000 != 0 && low & 0x4000 == 0 { return }
        let destination = isX2APIC ? high : high >> 24
        let isLogical = low & 1 << 11 != 0
        let broadcast: UInt32 = isX2APIC ? 0xFFFF_FFFF : 0xFF
        let message = InterruptMessage(
            vector: UInt8(truncatingIfNeeded: low), mode: mode, destination: destination,
            isLogical: isLogical,
            isBroadcast: destination == broadcast && (isX2APIC || !isLogical),
            shorthand: InterruptMessage.Shorthand(rawValue: UInt8(low >> 18 & 3)) ?? .none)
        send(message, toSelf: false, &effects)
    }
}
