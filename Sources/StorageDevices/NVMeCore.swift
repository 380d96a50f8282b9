internal import BlockStorage
internal import ByteLayout
internal import DeviceModel
internal import GuestMemory
internal import PCIBus
internal import Synchronization

/// The registers and queues of an NVMe controller. Commands are taken when the guest rings a doorbell, as
/// many as the queue holds then, and end on any thread and in any order.
///
/// Confinement: any thread. Its lock is a leaf towards the disk: no request is made while it is held.
final class NVMeCore: PCIFunctionHandler {
    struct State {
        var registers = NVMeController.Registers()
        /// Commands of each queue that are under way.
        var working = [Int](repeating: 0, count: NVMeController.queueCount)
        /// Who waits for a submission queue to be deleted: the command's identifier.
        var deletions = [UInt16?](repeating: nil, count: NVMeController.queueCount)
        /// Vectors to send once the lock is released.
        var signals: [UInt16] = []
        /// A queue was left with commands in it, since too many are under way: of the administrator, and
        /// of the others.
        var isAdminBlocked = false, isBlocked = false
        var isUnblocking = false
        var isResetting = false
        var isPaused = false
    }

    let memory: GuestMemory
    let backend: any BlockBackend
    let identity: NVMeIdentity
    private let interrupts: PCIInterrupts
    private let state = Mutex(State())

    init(
        _ memory: GuestMemory, _ backend: any BlockBackend, _ identity: NVMeIdentity,
        _ interrupts: PCIInterrupts
    ) {
        self.memory = memory
        self.backend = backend
        self.identity = identity
        self.interrupts = interrupts
    }

    /// Changes the state, then interrupts as it says.
    func change<Value: Sendable>(_ body: (inout State) -> Value) -> Value {
        let (result, signals) = state.withLock { state in
            let result = body(&state)
            drivePin(state)
            defer { state.signals = [] }
            return (result, state.signals)
        }
        for vector in signals { interrupts.signal(vector: Int(vector)) }
        return result
    }

    /// Without MSI-X a queue interrupts as long as there is something in it, §7.5.1.
    private func drivePin(_ state: State) {
        guard !interrupts.isMSIXEnabled else { return }
        let mask = state.registers.interruptMask
        interrupts.setPin(
            state.registers.completions.contains { queue in
                guard let queue, queue.interrupts, !queue.isEmpty else { return false }
                return mask >> UInt32(queue.vector) & 1 == 0
            })
    }

    func configurationChanged(_ range: Range<Int>, of function: PCIFunction) { change { _ in } }

    // MARK: Registers

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        let low = UInt64(read(offset & ~3)) >> (8 * (offset & 3))
        guard width == .qword else { return low & width.mask }
        return low | UInt64(read((offset & ~3) &+ 4)) << 32
    }

    private func read(_ offset: UInt64) -> UInt32 {
        func half(_ value: UInt64, _ first: UInt64) -> UInt32 {
            UInt32(truncatingIfNeeded: offset == first ? value : value >> 32)
        }
        return state.withLock { state in
            let registers = state.registers
            switch offset {
            case NVMeRegister.capabilities, NVMeRegister.capabilities + 4:
                return half(NVMeCapability.value, NVMeRegister.capabilities)
            case NVMeRegister.version: return NVMeCapability.version
            case NVMeRegister.interruptMaskSet, NVMeRegister.interruptMaskClear:
                return registers.interruptMask
            case NVMeRegister.configuration: return registers.configuration
            case NVMeRegister.status: return registers.status
            case NVMeRegister.adminAttributes: return registers.adminAttributes
            case NVMeRegister.adminSubmission, NVMeRegister.adminSubmission + 4:
                return half(registers.adminSubmission, NVMeRegister.adminSubmission)
            case NVMeRegister.adminCompletion, NVMeRegister.adminCompletion + 4:
                return half(registers.adminCompletion, NVMeRegister.adminCompletion)
            // Doorbells read as anything.
            default: return 0
            }
        }
    }

    /// The registers take aligned dwords; two of them at once are two.
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        guard offset & 3 == 0, width == .dword || width == .qword else { return }
        write(offset, UInt32(truncatingIfNeeded: value))
        // Of a doorbell the upper half is no other one.
        if width == .qword, offset < NVMeRegister.doorbells {
            write(offset + 4, UInt32(truncatingIfNeeded: value >> 32))
        }
    }

    private func write(_ offset: UInt64, _ value: UInt32) {
        func store(_ value: UInt32, _ register: inout UInt64, low: Bool) {
            register =
                low
                ? register & ~0xFFFF_FFFF | UInt64(value & ~0xFFF)
                : register & 0xFFFF_FFFF | UInt64(value) << 32
        }
        switch offset {
        case NVMeRegister.interruptMaskSet: change { $0.registers.interruptMask |= value }
        case NVMeRegister.interruptMaskClear: change { $0.registers.interruptMask &= ~value }
        case NVMeRegister.configuration: configure(value)
        case NVMeRegister.adminAttributes: change { $0.registers.adminAttributes = value & 0x0FFF_0FFF }
        case NVMeRegister.adminSubmission, NVMeRegister.adminSubmission + 4:
            change {
                store(value, &$0.registers.adminSubmission, low: offset == NVMeRegister.adminSubmission)
            }
        case NVMeRegister.adminCompletion, NVMeRegister.adminCompletion + 4:
            change {
                store(value, &$0.registers.adminCompletion, low: offset == NVMeRegister.adminCompletion)
            }
        case NVMeRegister.doorbells..<NVMeRegister.msixTable:
            ring(Int((offset - NVMeRegister.doorbells) / 4), value)
        default: break
        }
    }

    private enum Transition { case none, stop, shutDown }

    private func configure(_ value: UInt32) {
        let transition = change { state -> Transition in
            guard !state.isResetting else { return .none }
            let wasEnabled = state.registers.configuration & NVMeConfiguration.enable != 0
            state.registers.configuration = value & NVMeConfiguration.writable
            let isEnabled = value & NVMeConfiguration.enable != 0
            if wasEnabled, !isEnabled {
                state.isResetting = true
                return .stop
            }
            if isEnabled, !wasEnabled { enable(&state) }
            guard value & NVMeConfiguration.shutdown != 0 else {
                state.registers.status &= ~NVMeStatusRegister.shutdown
                return .none
            }
            guard state.registers.status & NVMeStatusRegister.shutdown == 0 else { return .none }
            state.registers.status |= NVMeStatusRegister.shutdownOccurs
            state.working[0] += 1
            return .shutDown
        }
        switch transition {
        case .none: break
        case .stop: stop(NVMeController.Registers.afterControllerReset)
        case .shutDown: shutDown()
        }
    }

    /// §7.6.1: the administrator's queues begin to be.
    private func enable(_ state: inout State) {
        let registers = state.registers
        let submission = UInt16(registers.adminAttributes & 0xFFF) + 1
        let completion = UInt16(registers.adminAttributes >> 16 & 0xFFF) + 1
        let sizes = 2...UInt16(NVMeCapability.queueEntries)
        guard registers.configuration & NVMeConfiguration.choices == 0, sizes.contains(submission),
            sizes.contains(completion),
            isMemory(registers.adminSubmission, UInt64(submission) * NVMeCommand.size),
            isMemory(registers.adminCompletion, UInt64(completion) * NVMeCompletion.size)
        else {
            state.registers.status |= NVMeStatusRegister.fatal
            return
        }
        state.registers.submissions[0] = NVMeSubmissionQueue(
            base: registers.adminSubmission, size: submission, completionQueue: 0)
        state.registers.completions[0] = NVMeCompletionQueue(
            base: registers.adminCompletion, size: completion, vector: 0, interrupts: true)
        state.registers.status |= NVMeStatusRegister.ready
    }

    func isMemory(_ address: UInt64, _ count: UInt64) -> Bool {
        (try? HostBuffer(memory, GuestAddress(address), count: Int(count), forWriting: true)) != nil
    }

    /// A normal or abrupt shutdown, §7.6.2: what was written is durable afterwards.
    private func shutDown() {
        backend.submit(BlockRequest(.flush)) { [self] _ in
            change { state in
                state.working[0] -= 1
                state.registers.status =
                    state.registers.status & ~NVMeStatusRegister.shutdown
                    | NVMeStatusRegister.shutdownComplete
            }
        }
        backend.commit()
    }

    /// A controller-level reset, §7.3.2, once the disk no longer works for the guest.
    private func stop(_ next: (NVMeController.Registers) -> NVMeController.Registers) {
        waitUntilIdle()
        change { state in
            state.registers = next(state.registers)
            state.deletions = [UInt16?](repeating: nil, count: NVMeController.queueCount)
            (state.isAdminBlocked, state.isBlocked) = (false, false)
            state.isResetting = false
        }
    }

    private func waitUntilIdle() {
        while state.withLock({ $0.working.contains { $0 > 0 } }) { backend.drain() }
    }

    // MARK: Doorbells

    /// Doorbell `number` counts the queues of both kinds by turns.
    private func ring(_ number: Int, _ value: UInt32) {
        let queue = number / 2, isSubmission = number % 2 == 0
        let commands = change { state -> Int in
            guard state.registers.isReady, !state.isResetting else { return 0 }
            guard queue < NVMeController.queueCount, state.deletions[queue] == nil else {
                note(NVMeEvents.Kind.invalidDoorbellRegister, &state)
                return 0
            }
            return isSubmission
                ? moveTail(of: queue, to: value, &state) : moveHead(of: queue, to: value, &state)
        }
        if isSubmission { serve(queue, atMost: commands) } else { unblock() }
    }

    /// Returns how many commands wait.
    private func moveTail(of queue: Int, to value: UInt32, _ state: inout State) -> Int {
        let size = state.registers.submissions[queue]?.size
        guard isDoorbell(value, ofSize: size, &state) else { return 0 }
        state.registers.submissions[queue]?.tail = UInt16(value)
        return state.registers.submissions[queue]?.count ?? 0
    }

    private func moveHead(of queue: Int, to value: UInt32, _ state: inout State) -> Int {
        let size = state.registers.completions[queue]?.size
        guard isDoorbell(value, ofSize: size, &state) else { return 0 }
        state.registers.completions[queue]?.head = UInt16(value)
        post(to: queue, &state)
        return 0
    }

    /// Whether a queue of `size` entries, nil for one that is not there, may go to entry `value`; else that
    /// is an event.
    private func isDoorbell(_ value: UInt32, ofSize size: UInt16?, _ state: inout State) -> Bool {
        guard let size else {
            note(NVMeEvents.Kind.invalidDoorbellRegister, &state)
            return false
        }
        guard value < UInt32(size) else {
            note(NVMeEvents.Kind.invalidDoorbellValue, &state)
            return false
        }
        return true
    }

    // MARK: Commands

    /// Starts commands that wait in a queue. Each ring of a doorbell takes as many as there were then, so
    /// that no thread serves for ever.
    private func serve(_ queue: Int, atMost limit: Int) {
        var rest = limit
        while rest > 0, let command = change({ take(queue, &$0) }) {
            rest -= 1
            if queue == 0 { administrate(command) } else { perform(command) }
        }
        if rest < limit { backend.commit() }
    }

    private func take(_ queue: Int, _ state: inout State) -> NVMeCommand? {
        guard state.registers.isReady, !state.isPaused, !state.isResetting,
            state.deletions[queue] == nil, let entry = state.registers.submissions[queue], entry.count > 0
        else { return nil }
        guard outstanding(isAdmin: queue == 0, state) < NVMeController.mostCommands else {
            if queue == 0 { state.isAdminBlocked = true } else { state.isBlocked = true }
            return nil
        }
        let place = GuestAddress(entry.base + UInt64(entry.head) * NVMeCommand.size)
        guard let bytes = try? memory.bytes(place, count: Int(NVMeCommand.size)),
            let command = NVMeCommand(bytes, queue: queue)
        else {
            state.registers.status |= NVMeStatusRegister.fatal
            return nil
        }
        state.registers.submissions[queue]?.head = entry.head + 1 == entry.size ? 0 : entry.head + 1
        state.working[queue] += 1
        return command
    }

    /// Commands under way, and those that have ended without room to say so.
    private func outstanding(isAdmin: Bool, _ state: State) -> Int {
        let queues = isAdmin ? 0..<1 : 1..<NVMeController.queueCount
        return queues.reduce(0) { sum, queue in
            sum + state.working[queue] + (state.registers.completions[queue]?.waiting.count ?? 0)
        }
    }

    /// A command has ended. `and` changes what else the end changes.
    func finish(
        _ command: NVMeCommand, _ status: UInt16 = NVMeStatus.success, result: UInt32 = 0,
        and more: (inout State) -> Void = { _ in }
    ) {
        change { state in
            state.working[command.queue] -= 1
            more(&state)
            if status != NVMeStatus.success { log(command, status, &state) }
            complete(command.queue, command.identifier, status, result, &state)
            concludeDeletion(of: command.queue, &state)
        }
        unblock()
    }

    private func log(_ command: NVMeCommand, _ status: UInt16, _ state: inout State) {
        state.registers.counters.errors &+= 1
        let entry = NVMeErrorEntry(
            number: state.registers.counters.errors, queue: UInt16(command.queue),
            identifier: command.identifier, status: status, namespace: command.namespace)
        state.registers.errors.insert(entry, at: 0)
        state.registers.errors = Array(state.registers.errors.prefix(NVMeController.errorEntries))
    }

    func complete(
        _ queue: Int, _ identifier: UInt16, _ status: UInt16, _ result: UInt32, _ state: inout State
    ) {
        guard let submission = state.registers.submissions[queue] else { return }
        // What the disk could not do may work another time.
        let isFinal = status != NVMeStatus.success && status >> 8 != 2
        let target = Int(submission.completionQueue)
        state.registers.completions[target]?.waiting.append(
            NVMeCompletion(
                result: result, submissionHead: submission.head, submissionQueue: UInt16(queue),
                identifier: identifier, status: isFinal ? status | NVMeStatus.final : status))
        post(to: target, &state)
    }

    /// Puts completions into their queue as long as it has room.
    private func post(to index: Int, _ state: inout State) {
        guard let queue = state.registers.completions[index], !queue.waiting.isEmpty else { return }
        var next = queue, posted = 0
        for completion in queue.waiting {
            guard !next.isFull else { break }
            let place = GuestAddress(next.base + UInt64(next.tail) * NVMeCompletion.size)
            guard store(completion, phase: next.phase, at: place) else {
                state.registers.status |= NVMeStatusRegister.fatal
                break
            }
            next.tail = next.next
            if next.tail == 0 { next.phase.toggle() }
            posted += 1
        }
        guard posted > 0 else { return }
        next.waiting.removeFirst(posted)
        state.registers.completions[index] = next
        if next.interrupts { state.signals.append(next.vector) }
    }

    /// The half-word with the phase goes last: software waits for it.
    private func store(_ completion: NVMeCompletion, phase: Bool, at place: GuestAddress) -> Bool {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: completion.result)
        bytes.append(littleEndian: UInt32(0))
        bytes.append(littleEndian: completion.submissionHead)
        bytes.append(littleEndian: completion.submissionQueue)
        bytes.append(littleEndian: completion.identifier)
        let status = completion.status << 1 | (phase ? 1 : 0)
        do {
            try memory.write(bytes, at: place)
            try memory.storeRelease(status, at: place + NVMeCompletion.statusOffset)
            return true
        } catch {
            return false
        }
    }

    /// There is room for more commands: goes back to the queues that were left with some.
    private func unblock() {
        while true {
            let goesOn = state.withLock { state in
                // Who is at it already looks again.
                guard hasRoomAgain(state), !state.isUnblocking else { return false }
                (state.isAdminBlocked, state.isBlocked) = (false, false)
                state.isUnblocking = true
                return true
            }
            guard goesOn else { return }
            serveAll()
            state.withLock { $0.isUnblocking = false }
        }
    }

    private func hasRoomAgain(_ state: State) -> Bool {
        func hasRoom(_ isAdmin: Bool) -> Bool {
            outstanding(isAdmin: isAdmin, state) < NVMeController.mostCommands
        }
        return state.isAdminBlocked && hasRoom(true) || state.isBlocked && hasRoom(false)
    }

    private func serveAll() {
        for queue in 0..<NVMeController.queueCount {
            let count = state.withLock { $0.registers.submissions[queue]?.count ?? 0 }
            serve(queue, atMost: count)
        }
    }

    // MARK: Deletion and events

    /// Commands of the queue that are under way end before it does; none of the others begins.
    func delete(_ queue: Int, for command: NVMeCommand) {
        change { state in
            state.deletions[queue] = command.identifier
            concludeDeletion(of: queue, &state)
        }
    }

    private func concludeDeletion(of queue: Int, _ state: inout State) {
        guard let identifier = state.deletions[queue], state.working[queue] == 0 else { return }
        state.deletions[queue] = nil
        state.registers.submissions[queue] = nil
        state.working[0] -= 1
        complete(0, identifier, NVMeStatus.success, 0, &state)
    }

    private func note(_ event: UInt32, _ state: inout State) {
        state.registers.events.note(event)
        tellEvents(&state)
    }

    func tellEvents(_ state: inout State) {
        while let (identifier, event) = state.registers.events.next() {
            complete(0, identifier, NVMeStatus.success, event, &state)
        }
    }

    // MARK: Lifecycle

    /// As after power-on.
    func reset() {
        change { $0.isResetting = true }
        stop { _ in NVMeController.Registers() }
    }

    func pause() {
        change { $0.isPaused = true }
        waitUntilIdle()
    }

    func resume() {
        change { $0.isPaused = false }
        serveAll()
    }

    var registers: NVMeController.Registers { state.withLock { $0.registers } }

    /// False when a queue is no memory.
    func restore(_ saved: NVMeController.Registers) -> Bool {
        let submissions = saved.submissions.allSatisfy { queue in
            queue.map { isMemory($0.base, UInt64($0.size) * NVMeCommand.size) } ?? true
        }
        let completions = saved.completions.allSatisfy { queue in
            queue.map { isMemory($0.base, UInt64($0.size) * NVMeCompletion.size) } ?? true
        }
        guard submissions, completions else { return false }
        change { state in
            state.registers = saved
            state.deletions = [UInt16?](repeating: nil, count: NVMeController.queueCount)
            (state.isAdminBlocked, state.isBlocked) = (false, false)
        }
        return true
    }
}

extension NVMeController.Registers {
    /// What stays: where the administrator's queues are, and what was counted.
    fileprivate static func afterControllerReset(_ old: Self) -> Self {
        var new = Self()
        new.configuration = old.configuration
        new.adminAttributes = old.adminAttributes
        new.adminSubmission = old.adminSubmission
        new.adminCompletion = old.adminCompletion
        new.counters = old.counters
        new.errors = old.errors
        return new
    }
}
