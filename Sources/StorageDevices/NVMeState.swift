/// A queue that the guest fills with commands.
struct NVMeSubmissionQueue: Codable, Sendable, Equatable {
    var base: UInt64
    /// Entries, 2 to 1024.
    var size: UInt16
    var head: UInt16 = 0
    var tail: UInt16 = 0
    var completionQueue: UInt16

    var count: Int { Int(tail >= head ? tail - head : tail &+ size &- head) }
}

/// A queue that the guest empties of completions.
struct NVMeCompletionQueue: Codable, Sendable, Equatable {
    var base: UInt64
    var size: UInt16
    var head: UInt16 = 0
    var tail: UInt16 = 0
    /// Turns each time around, so that software knows new entries.
    var phase = true
    var vector: UInt16
    var interrupts: Bool
    /// Completions that wait for room.
    var waiting: [NVMeCompletion] = []

    var next: UInt16 { tail + 1 == size ? 0 : tail + 1 }
    var isFull: Bool { next == head }
    var isEmpty: Bool { head == tail }
}

/// What the guest has chosen; everything else it sees as it is.
struct NVMeChoices: Codable, Sendable, Equatable {
    var hasWriteCache = true
    var temperatureLimit = NVMeFeature.temperatureLimit
    /// Values of `NVMeFeature.kept`.
    var kept: [UInt8: UInt32] = [:]
}

/// What the health log counts, §5.14.1.2.
struct NVMeCounters: Codable, Sendable, Equatable {
    var sectorsRead: UInt64 = 0
    var sectorsWritten: UInt64 = 0
    var reads: UInt64 = 0
    var writes: UInt64 = 0
    var errors: UInt64 = 0
}

/// One entry of the error log, §5.14.1.1.
struct NVMeErrorEntry: Codable, Sendable, Equatable {
    static let size = 64
    var number: UInt64
    var queue: UInt16
    var identifier: UInt16
    var status: UInt16
    var namespace: UInt32
}

/// Asynchronous events, §5.2: what happened waits for a request of the guest's; of one type nothing more is
/// told before the guest has read the log page about it.
struct NVMeEvents: Codable, Sendable, Equatable {
    static let mostRequests = 4
    /// Identifiers of requests.
    var requests: [UInt16] = []
    /// Results of completions to come, at most one of a type.
    var pending: [UInt32] = []
    /// Types that were told, as bits.
    var told: UInt8 = 0

    enum Kind {
        static let invalidDoorbellRegister: UInt32 = 0x01_0000, invalidDoorbellValue: UInt32 = 0x01_0100
    }

    mutating func note(_ event: UInt32) {
        let type = event & 7
        if !pending.contains(where: { $0 & 7 == type }) { pending.append(event) }
    }

    /// A request and the event that answers it.
    mutating func next() -> (identifier: UInt16, event: UInt32)? {
        guard !requests.isEmpty,
            let index = pending.firstIndex(where: { told >> UInt8($0 & 7) & 1 == 0 })
        else { return nil }
        let event = pending.remove(at: index)
        told |= 1 << UInt8(event & 7)
        return (requests.removeFirst(), event)
    }

    /// The guest has read the page: of this type it may be told again.
    mutating func forget(type: UInt8) { told &= ~(1 << type) }
}

extension NVMeController {
    /// Everything of a controller that a guest can see.
    struct Registers: Codable, Sendable, Equatable {
        var configuration: UInt32 = 0
        var status: UInt32 = 0
        var interruptMask: UInt32 = 0
        var adminAttributes: UInt32 = 0
        var adminSubmission: UInt64 = 0
        var adminCompletion: UInt64 = 0
        /// Queue 0 of either kind is the administrator's.
        var submissions = [NVMeSubmissionQueue?](repeating: nil, count: queueCount)
        var completions = [NVMeCompletionQueue?](repeating: nil, count: queueCount)
        var choices = NVMeChoices()
        var counters = NVMeCounters()
        var errors: [NVMeErrorEntry] = []
        var events = NVMeEvents()

        var isReady: Bool {
            status & (NVMeStatusRegister.ready | NVMeStatusRegister.fatal) == NVMeStatusRegister.ready
        }

        /// Whether a controller can have these.
        var isPossible: Bool {
            guard configuration & ~NVMeConfiguration.writable == 0, status & ~NVMeStatusRegister.all == 0,
                adminAttributes & ~0x0FFF_0FFF == 0, adminSubmission & 0xFFF == 0,
                adminCompletion & 0xFFF == 0,
                submissions.count == NVMeController.queueCount,
                completions.count == NVMeController.queueCount,
                choices.kept.keys.allSatisfy({ NVMeFeature.kept.contains($0) }),
                errors.count <= NVMeController.errorEntries,
                events.requests.count <= NVMeEvents.mostRequests, events.pending.count <= 8
            else { return false }
            return submissions.allSatisfy(isPossible) && completions.allSatisfy(Self.isPossible)
        }

        private static func isPossible(size: UInt16, head: UInt16, tail: UInt16) -> Bool {
            (2...UInt16(NVMeCapability.queueEntries)).contains(size) && head < size && tail < size
        }

        private func isPossible(_ queue: NVMeSubmissionQueue?) -> Bool {
            guard let queue else { return true }
            let target = Int(queue.completionQueue)
            return Self.isPossible(size: queue.size, head: queue.head, tail: queue.tail)
                && completions.indices.contains(target) && completions[target] != nil
        }

        private static func isPossible(_ queue: NVMeCompletionQueue?) -> Bool {
            guard let queue else { return true }
            return isPossible(size: queue.size, head: queue.head, tail: queue.tail)
                && Int(queue.vector) < NVMeController.queueCount
                && queue.waiting.count <= NVMeController.mostCommands * 2
        }
    }
}
