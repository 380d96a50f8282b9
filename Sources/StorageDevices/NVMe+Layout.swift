internal import ByteLayout

/// Registers of the controller, NVM Express 1.4 §3.1, and where BAR 0 has the tables of MSI-X.
enum NVMeRegister {
    static let capabilities: UInt64 = 0x00, version: UInt64 = 0x08
    static let interruptMaskSet: UInt64 = 0x0C, interruptMaskClear: UInt64 = 0x10
    static let configuration: UInt64 = 0x14, status: UInt64 = 0x1C
    static let adminAttributes: UInt64 = 0x24
    static let adminSubmission: UInt64 = 0x28, adminCompletion: UInt64 = 0x30
    /// Two of four bytes for each pair of queues: the tail of the one, the head of the other, §3.1.24.
    static let doorbells: UInt64 = 0x1000, msixTable: UInt64 = 0x2000, msixPending: UInt64 = 0x3000
    static let size: UInt64 = 0x4000
}

/// CAP, §3.1.1: queues of 1024 contiguous entries, ready within ten seconds, NVM command set, pages of 4 KiB.
enum NVMeCapability {
    static let queueEntries = 1024
    static let contiguous: UInt64 = 1 << 16, timeout: UInt64 = 20 << 24, commandSet: UInt64 = 1 << 37
    static let value = UInt64(queueEntries - 1) | contiguous | timeout | commandSet
    /// VS, §3.1.2.
    static let version: UInt32 = 0x0001_0400
}

/// CC, §3.1.5.
enum NVMeConfiguration {
    static let enable: UInt32 = 1 << 0
    /// Command set, page size and arbitration: only zeroes are offered.
    static let choices: UInt32 = 0x3FF0
    static let shutdown: UInt32 = 3 << 14
    static let writable: UInt32 = 0x00FF_FFF1
    /// Sizes of entries as powers of two; queues need these.
    static let submissionEntry: UInt32 = 6, completionEntry: UInt32 = 4
}

/// CSTS, §3.1.6.
enum NVMeStatusRegister {
    static let ready: UInt32 = 1 << 0, fatal: UInt32 = 1 << 1
    static let shutdown: UInt32 = 3 << 2, shutdownOccurs: UInt32 = 1 << 2, shutdownComplete: UInt32 = 2 << 2
    static let all: UInt32 = 0xF
}

/// Opcodes of the admin command set, §5.
enum NVMeAdminOpcode {
    static let deleteSubmission: UInt8 = 0x00, createSubmission: UInt8 = 0x01, logPage: UInt8 = 0x02
    static let deleteCompletion: UInt8 = 0x04, createCompletion: UInt8 = 0x05, identify: UInt8 = 0x06
    static let abort: UInt8 = 0x08, setFeatures: UInt8 = 0x09, getFeatures: UInt8 = 0x0A
    static let eventRequest: UInt8 = 0x0C
    static let all: [UInt8] = [0, 1, 2, 4, 5, 6, 8, 9, 0x0A, 0x0C]
}

/// Opcodes of the NVM command set, §6.
enum NVMeOpcode {
    static let flush: UInt8 = 0x00, write: UInt8 = 0x01, read: UInt8 = 0x02
    static let writeZeroes: UInt8 = 0x08, manageDataset: UInt8 = 0x09
    static let all: [UInt8] = [0, 1, 2, 8, 9]
}

/// Status codes with their type in bits 10..8, §4.6.1.
enum NVMeStatus {
    static let success: UInt16 = 0
    static let invalidOpcode: UInt16 = 0x01, invalidField: UInt16 = 0x02, transferError: UInt16 = 0x04
    static let abortRequested: UInt16 = 0x07
    static let invalidNamespace: UInt16 = 0x0B, invalidOffset: UInt16 = 0x13, writeProtected: UInt16 = 0x20
    static let outOfRange: UInt16 = 0x80
    static let invalidCompletionQueue: UInt16 = 0x100, invalidQueue: UInt16 = 0x101
    static let invalidQueueSize: UInt16 = 0x102, tooManyEventRequests: UInt16 = 0x105
    static let invalidVector: UInt16 = 0x108, invalidLogPage: UInt16 = 0x109
    static let invalidQueueDeletion: UInt16 = 0x10C, notSaveable: UInt16 = 0x10D
    static let writeFault: UInt16 = 0x280, unreadable: UInt16 = 0x281
    /// "Do not retry" in a completion.
    static let final: UInt16 = 1 << 14
}

/// Why a command fails before anything was done.
struct NVMeFailure: Error {
    let status: UInt16
    init(_ status: UInt16) { self.status = status }
}

/// Feature identifiers, §5.21.1.
enum NVMeFeature {
    static let power: UInt8 = 2, temperature: UInt8 = 4, writeCache: UInt8 = 6, queueCount: UInt8 = 7
    static let vector: UInt8 = 9
    /// Arbitration, error recovery, coalescing, atomicity and which events are wanted: kept, without effect.
    static let kept: Set<UInt8> = [1, 5, 8, 0x0A, 0x0B]
    static let temperatureLimit: UInt32 = 343
}

/// A command as a submission queue holds it, 64 bytes, §4.2.
/// ```
///   0 opcode  1 flags  2 identifier   4 namespace   24 PRP entry 1   32 PRP entry 2   40 words 10 to 15
/// ```
struct NVMeCommand: Sendable {
    static let size: UInt64 = 64
    /// Of the submission queue.
    let queue: Int
    let opcode: UInt8
    /// Fused operations, and what describes the data: neither is offered.
    let flags: UInt8
    let identifier: UInt16
    let namespace: UInt32
    let pointers: (UInt64, UInt64)
    private let words: [UInt32]

    init?(_ bytes: [UInt8], queue: Int) {
        guard bytes.count >= Int(Self.size), let identifier = bytes.load(littleEndian: UInt16.self, at: 2),
            let namespace = bytes.load(littleEndian: UInt32.self, at: 4),
            let first = bytes.load(littleEndian: UInt64.self, at: 24),
            let second = bytes.load(littleEndian: UInt64.self, at: 32)
        else { return nil }
        self.queue = queue
        self.identifier = identifier
        self.namespace = namespace
        opcode = bytes[0]
        flags = bytes[1]
        pointers = (first, second)
        words = (0..<6).map { bytes.load(littleEndian: UInt32.self, at: 40 + 4 * $0) ?? 0 }
    }

    /// Command dword 10 to 15.
    func word(_ number: Int) -> UInt32 { words[number - 10] }
    /// First logical block of a command that has one.
    var firstBlock: UInt64 { UInt64(word(10)) | UInt64(word(11)) << 32 }
    /// Blocks of such a command.
    var blockCount: UInt64 { UInt64(word(12) & 0xFFFF) + 1 }
}

/// A completion before it is in its queue: 16 bytes there, §4.6.
struct NVMeCompletion: Codable, Sendable, Equatable {
    static let size: UInt64 = 16
    /// Of the phase and the status, which software polls.
    static let statusOffset: UInt64 = 14
    var result: UInt32
    var submissionHead: UInt16
    var submissionQueue: UInt16
    var identifier: UInt16
    var status: UInt16
}
