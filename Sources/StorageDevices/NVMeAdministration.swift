internal import ByteLayout
internal import GuestMemory

/// The admin command set, NVM Express 1.4 §5.
extension NVMeCore {
    func administrate(_ command: NVMeCommand) {
        do throws(NVMeFailure) {
            guard command.flags == 0 else { throw NVMeFailure(NVMeStatus.invalidField) }
            switch command.opcode {
            case NVMeAdminOpcode.createSubmission: try createSubmission(command)
            case NVMeAdminOpcode.createCompletion: try createCompletion(command)
            case NVMeAdminOpcode.deleteSubmission: try deleteSubmission(command)
            case NVMeAdminOpcode.deleteCompletion: try deleteCompletion(command)
            case NVMeAdminOpcode.identify: try identify(command)
            case NVMeAdminOpcode.logPage: try tellLog(command)
            case NVMeAdminOpcode.abort: abort(command)
            case NVMeAdminOpcode.setFeatures: finish(command, result: try setFeature(command))
            case NVMeAdminOpcode.getFeatures: finish(command, result: try feature(command))
            case NVMeAdminOpcode.eventRequest: try takeEventRequest(command)
            default: throw NVMeFailure(NVMeStatus.invalidOpcode)
            }
        } catch {
            finish(command, error.status)
        }
    }

    // MARK: Queues, §5.3 to §5.6

    private typealias NewQueue = (index: Int, size: UInt16, base: UInt64)

    private func newQueue(_ command: NVMeCommand, entrySize: UInt64) throws(NVMeFailure) -> NewQueue {
        let index = Int(command.word(10) & 0xFFFF), entries = UInt64(command.word(10) >> 16) + 1
        guard (1..<NVMeController.queueCount).contains(index) else {
            throw NVMeFailure(NVMeStatus.invalidQueue)
        }
        guard (2...UInt64(NVMeCapability.queueEntries)).contains(entries) else {
            throw NVMeFailure(NVMeStatus.invalidQueueSize)
        }
        // Contiguous, as CAP.CQR asks for.
        guard command.word(11) & 1 != 0 else { throw NVMeFailure(NVMeStatus.invalidField) }
        let base = command.pointers.0
        guard base & 0xFFF == 0 else { throw NVMeFailure(NVMeStatus.invalidOffset) }
        guard isMemory(base, entries * entrySize) else { throw NVMeFailure(NVMeStatus.invalidField) }
        return (index, UInt16(entries), base)
    }

    /// Ends the command with what `body` says, which may change the queues.
    private func settle(_ command: NVMeCommand, _ body: (inout State) -> UInt16) {
        let status = change { body(&$0) }
        finish(command, status)
    }

    private func createCompletion(_ command: NVMeCommand) throws(NVMeFailure) {
        let new = try newQueue(command, entrySize: NVMeCompletion.size)
        let vector = command.word(11) >> 16
        guard vector < UInt32(NVMeController.queueCount) else {
            throw NVMeFailure(NVMeStatus.invalidVector)
        }
        settle(command) { state in
            let size = state.registers.configuration >> 20 & 0xF
            guard size == NVMeConfiguration.completionEntry else { return NVMeStatus.invalidQueueSize }
            guard state.registers.completions[new.index] == nil else { return NVMeStatus.invalidQueue }
            state.registers.completions[new.index] = NVMeCompletionQueue(
                base: new.base, size: new.size, vector: UInt16(vector),
                interrupts: command.word(11) & 2 != 0)
            return NVMeStatus.success
        }
    }

    private func createSubmission(_ command: NVMeCommand) throws(NVMeFailure) {
        let new = try newQueue(command, entrySize: NVMeCommand.size)
        let target = Int(command.word(11) >> 16)
        settle(command) { state in
            let size = state.registers.configuration >> 16 & 0xF
            guard size == NVMeConfiguration.submissionEntry else { return NVMeStatus.invalidQueueSize }
            guard state.registers.submissions[new.index] == nil else { return NVMeStatus.invalidQueue }
            guard (1..<NVMeController.queueCount).contains(target),
                state.registers.completions[target] != nil
            else { return NVMeStatus.invalidCompletionQueue }
            state.registers.submissions[new.index] = NVMeSubmissionQueue(
                base: new.base, size: new.size, completionQueue: UInt16(target))
            return NVMeStatus.success
        }
    }

    private func deleteSubmission(_ command: NVMeCommand) throws(NVMeFailure) {
        let queue = Int(command.word(10) & 0xFFFF)
        guard (1..<NVMeController.queueCount).contains(queue),
            change({ $0.registers.submissions[queue] != nil && $0.deletions[queue] == nil })
        else { throw NVMeFailure(NVMeStatus.invalidQueue) }
        delete(queue, for: command)
    }

    private func deleteCompletion(_ command: NVMeCommand) throws(NVMeFailure) {
        let queue = Int(command.word(10) & 0xFFFF)
        guard (1..<NVMeController.queueCount).contains(queue) else {
            throw NVMeFailure(NVMeStatus.invalidQueue)
        }
        settle(command) { state in
            guard state.registers.completions[queue] != nil else { return NVMeStatus.invalidQueue }
            let isUsed = state.registers.submissions.contains { $0.map { Int($0.completionQueue) } == queue }
            guard !isUsed else { return NVMeStatus.invalidQueueDeletion }
            state.registers.completions[queue] = nil
            return NVMeStatus.success
        }
    }

    // MARK: Data to the guest

    private func tell(_ bytes: [UInt8], _ command: NVMeCommand) throws(NVMeFailure) {
        guard !bytes.isEmpty else { return finish(command) }
        let moved = try pages(command, bytes.count).store(bytes)
        guard moved != nil else { throw NVMeFailure(NVMeStatus.transferError) }
        finish(command)
    }

    private func identify(_ command: NVMeCommand) throws(NVMeFailure) {
        let namespace = command.namespace
        func check(_ isKnown: Bool) throws(NVMeFailure) {
            guard isKnown else { throw NVMeFailure(NVMeStatus.invalidNamespace) }
        }
        switch command.word(10) & 0xFF {
        case 0:
            // All namespaces: what they have in common, which with one is what it has.
            try check(namespace == 1 || namespace == .max)
            try tell(
                identity.namespace(sectors: backend.capacity, isReadOnly: backend.isReadOnly), command)
        case 1: try tell(identity.controller(), command)
        case 2:
            try check(namespace < 0xFFFF_FFFE)
            try tell(identity.activeNamespaces(after: namespace), command)
        case 3:
            try check(namespace == 1)
            try tell(identity.descriptors(), command)
        default: throw NVMeFailure(NVMeStatus.invalidField)
        }
    }

    /// GET LOG PAGE, §5.14: a part of a page, in double words.
    private func tellLog(_ command: NVMeCommand) throws(NVMeFailure) {
        let page = command.word(10) & 0xFF
        let count = (UInt64(command.word(11) & 0xFFFF) << 16 | UInt64(command.word(10) >> 16)) + 1
        let offset = UInt64(command.word(12)) | UInt64(command.word(13)) << 32
        let log = try log(page)
        guard offset & 3 == 0, offset <= UInt64(log.count) else {
            throw NVMeFailure(NVMeStatus.invalidField)
        }
        let part = log.dropFirst(Int(offset)).prefix(Int(min(count * 4, UInt64(log.count))))
        // The guest may keep events of the page's type back.
        if command.word(10) >> 15 & 1 == 0, (1...3).contains(page) {
            change { state in
                state.registers.events.forget(type: UInt8(page - 1))
                tellEvents(&state)
            }
        }
        try tell(Array(part), command)
    }

    private func log(_ page: UInt32) throws(NVMeFailure) -> [UInt8] {
        let registers = registers
        switch page {
        case 1: return Self.errorLog(registers.errors)
        case 2: return Self.healthLog(registers)
        case 3:
            // Slot 1 is active, with revision "1".
            var bytes = [UInt8](repeating: 0, count: 512)
            bytes[0] = 1
            for place in 8..<16 { bytes[place] = place == 8 ? 0x31 : 0x20 }
            return bytes
        case 5:
            // Commands that there are; which of them change blocks.
            var bytes = [UInt8](repeating: 0, count: 4096)
            for opcode in NVMeAdminOpcode.all { bytes[Int(opcode) * 4] = 1 }
            for opcode in NVMeOpcode.all {
                let changes = opcode != NVMeOpcode.flush && opcode != NVMeOpcode.read
                bytes[1024 + Int(opcode) * 4] = changes ? 3 : 1
            }
            return bytes
        default: throw NVMeFailure(NVMeStatus.invalidLogPage)
        }
    }

    private static func errorLog(_ entries: [NVMeErrorEntry]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: NVMeController.errorEntries * NVMeErrorEntry.size)
        for (index, entry) in entries.prefix(NVMeController.errorEntries).enumerated() {
            let place = index * NVMeErrorEntry.size
            bytes.store(littleEndian: entry.number, at: place)
            bytes.store(littleEndian: entry.queue, at: place + 8)
            bytes.store(littleEndian: entry.identifier, at: place + 10)
            bytes.store(littleEndian: entry.status << 1, at: place + 12)
            // No single parameter is to blame.
            bytes.store(littleEndian: UInt16.max, at: place + 14)
            bytes.store(littleEndian: entry.namespace, at: place + 24)
        }
        return bytes
    }

    private static func healthLog(_ registers: NVMeController.Registers) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 512)
        // Kelvin; spare blocks in percent, and when there are too few.
        bytes.store(littleEndian: UInt16(300), at: 1)
        bytes[3] = 100
        bytes[4] = 10
        let counters = registers.counters
        func thousands(_ sectors: UInt64) -> UInt64 { sectors / 1000 + (sectors % 1000 > 0 ? 1 : 0) }
        for (place, value) in [
            (32, thousands(counters.sectorsRead)), (48, thousands(counters.sectorsWritten)),
            (64, counters.reads), (80, counters.writes), (176, counters.errors),
        ] { bytes.store(littleEndian: value, at: place) }
        return bytes
    }

    // MARK: Features, §5.9 and §5.21

    private func feature(_ command: NVMeCommand) throws(NVMeFailure) -> UInt32 {
        // Current values are all there are.
        guard command.word(10) >> 8 & 7 == 0 else { throw NVMeFailure(NVMeStatus.invalidField) }
        let choices = registers.choices
        switch UInt8(command.word(10) & 0xFF) {
        case NVMeFeature.power: return 0
        case NVMeFeature.temperature:
            // Of the limit below, which there is none.
            return command.word(11) >> 20 & 3 == 0 ? choices.temperatureLimit : 0
        case NVMeFeature.writeCache: return choices.hasWriteCache ? 1 : 0
        case NVMeFeature.queueCount: return Self.queueCounts
        case NVMeFeature.vector: return try vector(command)
        case let kept where NVMeFeature.kept.contains(kept): return choices.kept[kept] ?? 0
        default: throw NVMeFailure(NVMeStatus.invalidField)
        }
    }

    private func setFeature(_ command: NVMeCommand) throws(NVMeFailure) -> UInt32 {
        guard command.word(10) >> 31 == 0 else { throw NVMeFailure(NVMeStatus.notSaveable) }
        let value = command.word(11)
        switch UInt8(command.word(10) & 0xFF) {
        case NVMeFeature.power:
            guard value & 0x1F == 0 else { throw NVMeFailure(NVMeStatus.invalidField) }
        case NVMeFeature.temperature:
            if value >> 20 & 3 == 0 { change { $0.registers.choices.temperatureLimit = value & 0xFFFF } }
        case NVMeFeature.writeCache: change { $0.registers.choices.hasWriteCache = value & 1 != 0 }
        case NVMeFeature.queueCount:
            guard value & 0xFFFF != 0xFFFF, value >> 16 != 0xFFFF else {
                throw NVMeFailure(NVMeStatus.invalidField)
            }
            return Self.queueCounts
        case NVMeFeature.vector: _ = try vector(command)
        case let kept where NVMeFeature.kept.contains(kept):
            change { $0.registers.choices.kept[kept] = value }
        default: throw NVMeFailure(NVMeStatus.invalidField)
        }
        return 0
    }

    /// Less one: completion queues in the upper half, submission queues in the lower.
    private static let queueCounts = UInt32(NVMeController.queueCount - 2) * 0x1_0001

    /// Interrupts are never coalesced.
    private func vector(_ command: NVMeCommand) throws(NVMeFailure) -> UInt32 {
        let number = command.word(11) & 0xFFFF
        guard number < UInt32(NVMeController.queueCount) else { throw NVMeFailure(NVMeStatus.invalidField) }
        return number
    }

    // MARK: Abort and events

    /// What the disk works on cannot be taken back; a request for events can, §5.1.
    private func abort(_ command: NVMeCommand) {
        let queue = command.word(10) & 0xFFFF, identifier = UInt16(command.word(10) >> 16)
        let isAborted = change { state in
            guard queue == 0,
                let index = state.registers.events.requests.firstIndex(of: identifier)
            else { return false }
            state.registers.events.requests.remove(at: index)
            complete(0, identifier, NVMeStatus.abortRequested, 0, &state)
            return true
        }
        finish(command, result: isAborted ? 0 : 1)
    }

    private func takeEventRequest(_ command: NVMeCommand) throws(NVMeFailure) {
        let isTaken = change { state in
            guard state.registers.events.requests.count < NVMeEvents.mostRequests else { return false }
            state.registers.events.requests.append(command.identifier)
            state.working[0] -= 1
            tellEvents(&state)
            return true
        }
        guard isTaken else { throw NVMeFailure(NVMeStatus.tooManyEventRequests) }
    }
}
