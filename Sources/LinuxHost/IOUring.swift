internal import CLinux
internal import Glibc
internal import Synchronization

/// A pair of rings shared with the kernel: operations go in, completions come out (io_uring(7)).
///
/// The submission tail and the completion head are ours: stored with release ordering, so that the kernel
/// sees the entry before the index. The submission head and the completion tail are the kernel's: loaded with
/// acquire ordering. At most `capacity` operations are under way, so the completion ring (twice as large)
/// cannot overflow.
///
/// The kernel runs a ring's operations past every seccomp filter, so a ring is fenced in when it is made
/// (io_uring_register(2), IORING_REGISTER_RESTRICTIONS) and for ever: it reads, writes, synchronizes and
/// allocates in one file, which is given at the start, and does nothing else.
///
/// Confinement: any thread submits, one at a time (a lock sees to it); one thread reaps. A thread that
/// submitted must outlive its operations: the kernel cancels those of a thread that ends.
@safe public final class IOUring: Sendable {
    public struct Completion: Sendable {
        public let token: UInt64
        /// Bytes, or 0, or a negative errno value.
        public let result: Int32
    }

    /// Operations that may be under way.
    public let capacity: Int
    private let ring: Descriptor
    /// The one file, kept because its number stands in operations.
    private let file: Descriptor
    private let submissionRing: MemoryMapping
    private let completionRing: MemoryMapping
    private let entries: MemoryMapping
    private let submission: Offsets
    private let completion: Offsets
    private let submitting = Mutex(())
    private let underWay = Atomic<Int>(0)

    /// Offsets of the fields of one ring (struct io_sqring_offsets, io_cqring_offsets).
    private struct Offsets {
        let head: Int, tail: Int, mask: UInt32
        /// The index array of submissions, the entries of completions.
        let array: Int
    }

    // System calls and offsets of linux/io_uring.h.
    private static let setup = 425, enter = 426, register = 427
    private static let submissionOffset = 0, completionOffset = 0x800_0000, entriesOffset = 0x1000_0000
    private static let entrySize = 64, completionSize = 16, parametersSize = 120
    private static let getEvents = 1, startsDisabled: UInt32 = 1 << 6
    /// Operations of io_uring_register.
    enum Registration { static let files = 2, restrictions = 11, enableRings = 12 }
    /// Opcodes of submissions.
    enum Opcode {
        static let nothing: UInt8 = 0, readVectors: UInt8 = 1, writeVectors: UInt8 = 2, synchronize: UInt8 = 3
        static let allocate: UInt8 = 17
        static let all = [nothing, readVectors, writeVectors, synchronize, allocate]
    }
    /// IOSQE_FIXED_FILE: the entry's file is a place in the ring's own table.
    static let fixedFile: UInt8 = 1

    /// Sets the rings up for `entries` operations (a power of two is best) on `file`.
    /// - Throws: when the host refuses io_uring or its restrictions (seccomp, sysctl, a kernel before 5.10).
    public init(entries wanted: Int, file: Descriptor) throws(HostError) {
        precondition((1...4096).contains(wanted), "ring size out of range")
        var parameters = [UInt32](repeating: 0, count: Self.parametersSize / 4)
        parameters[2] = Self.startsDisabled
        self.file = file
        // SAFETY: the kernel reads and writes 120 bytes.
        let number = unsafe parameters.withUnsafeMutableBytes {
            ospite_syscall6(Self.setup, wanted, Int(bitPattern: $0.baseAddress), 0, 0, 0, 0)
        }
        guard number >= 0 else { throw .last("setting up io_uring") }
        ring = Descriptor(adopting: Int32(number))
        _ = ospite_fcntl(ring.number, F_SETFD, Int(FD_CLOEXEC))
        let submissions = Int(parameters[0]), completions = Int(parameters[1])
        capacity = submissions
        // sq_off starts at word 10, cq_off at word 20: head, tail, mask, entries, flags/overflow, ...
        let submissionArray = Int(parameters[16]), completionArray = Int(parameters[25])
        submissionRing = try MemoryMapping(
            file: ring.number, offset: Self.submissionOffset, size: submissionArray + submissions * 4,
            writable: true)
        completionRing = try MemoryMapping(
            file: ring.number, offset: Self.completionOffset,
            size: completionArray + completions * Self.completionSize, writable: true)
        self.entries = try MemoryMapping(
            file: ring.number, offset: Self.entriesOffset, size: submissions * Self.entrySize, writable: true)
        submission = Offsets(
            head: Int(parameters[10]), tail: Int(parameters[11]), mask: UInt32(submissions - 1),
            array: submissionArray)
        completion = Offsets(
            head: Int(parameters[20]), tail: Int(parameters[21]), mask: UInt32(completions - 1),
            array: completionArray)
        let restrictions = Self.restrictions
        try register(Registration.restrictions, restrictions, count: restrictions.count / 2)
        try register(Registration.files, [UInt64(file.number)], count: 1)
        try register(Registration.enableRings, [], count: 0)
    }

    /// Of struct io_uring_restriction, two words each: le16 kind, u8 operand, zeroes. Registrations are not
    /// among what is allowed, so there is none after the rings are enabled.
    private static var restrictions: [UInt64] {
        let allowOpcode: UInt64 = 1, requireFlags: UInt64 = 3
        let opcodes: [UInt64] = Opcode.all.flatMap { [allowOpcode | UInt64($0) << 16, 0] }
        return opcodes + [requireFlags | UInt64(fixedFile) << 16, 0]
    }

    /// io_uring_register with `count` elements, which `words` holds, or with nothing.
    func register(_ operation: Int, _ words: [UInt64], count: Int) throws(HostError) {
        // SAFETY: the kernel reads `count` elements of at most 16 bytes: restrictions have two words each,
        // files half of one.
        let result = unsafe words.withUnsafeBytes {
            let address = words.isEmpty ? 0 : Int(bitPattern: $0.baseAddress)
            return ospite_syscall6(Self.register, Int(ring.number), operation, address, count, 0, 0)
        }
        guard result >= 0 else { throw .last("fencing an io_uring in") }
    }

    /// Hands `operation`, which is on the ring's file, to the kernel; its completion carries `token`. False
    /// when `capacity` operations are under way or the kernel has no memory for it now.
    /// - Safety: see `FileOperation`.
    @unsafe public func submit(_ operation: FileOperation, token: UInt64) -> Bool {
        unsafe precondition(operation.descriptor == file.number, "an operation on a file of another ring")
        return unsafe submitEntry { entry in unsafe Self.fill(entry, operation, token) }
    }

    /// An operation that does nothing but complete: wakes the thread that waits in `reap`.
    public func submitNothing(token: UInt64) -> Bool {
        // SAFETY: inside the entry, whose other bytes are zero: opcode `nothing`.
        unsafe submitEntry { entry in
            unsafe entry.storeBytes(of: Self.fixedFile, toByteOffset: 1, as: UInt8.self)
            unsafe entry.storeBytes(of: token, toByteOffset: 32, as: UInt64.self)
        }
    }

    /// Submits the entry that `fill` writes into 64 zeroed bytes.
    func submitEntry(_ fill: (UnsafeMutableRawPointer) -> Void) -> Bool {
        submitting.withLock { _ in
            guard underWay.load(ordering: .relaxed) < capacity else { return false }
            // SAFETY: offsets from the kernel, inside the mapping; this thread alone writes the tail.
            let tailWord = unsafe Self.word(submissionRing, submission.tail)
            let tail = unsafe tailWord.pointee.load(ordering: .relaxed)
            let index = tail & submission.mask
            let entry = unsafe entries.base + Int(index) * Self.entrySize
            unsafe entry.initializeMemory(as: UInt8.self, repeating: 0, count: Self.entrySize)
            unsafe fill(entry)
            let slot = unsafe submissionRing.base + submission.array + Int(index) * 4
            unsafe slot.storeBytes(of: index, as: UInt32.self)
            unsafe tailWord.pointee.store(tail &+ 1, ordering: .releasing)
            underWay.wrappingAdd(1, ordering: .relaxed)
            while true {
                let count = ospite_syscall6(Self.enter, Int(ring.number), 1, 0, 0, 0, 0)
                if count == 1 { return true }
                if count < 0, ospite_get_errno() == EINTR { continue }
                // Not taken: the kernel looks at the tail only in `enter`, so the entry can be withdrawn.
                unsafe tailWord.pointee.store(tail, ordering: .releasing)
                underWay.wrappingSubtract(1, ordering: .relaxed)
                return false
            }
        }
    }

    /// Takes the completions that are there into `list` (emptied first), waiting for one when `waiting`.
    public func reap(into list: inout [Completion], waiting: Bool) throws(HostError) {
        list.removeAll(keepingCapacity: true)
        while true {
            takeCompletions(&list)
            if !list.isEmpty || !waiting { return }
            let result = ospite_syscall6(Self.enter, Int(ring.number), 0, 1, Self.getEvents, 0, 0)
            let code = result < 0 ? ospite_get_errno() : 0
            if code != 0, code != EINTR, code != EAGAIN, code != EBUSY {
                throw HostError("waiting for io_uring", code: code)
            }
        }
    }

    private func takeCompletions(_ list: inout [Completion]) {
        // SAFETY: offsets from the kernel, inside the mapping; the index is masked to the ring's size.
        let headWord = unsafe Self.word(completionRing, completion.head)
        var head = unsafe headWord.pointee.load(ordering: .relaxed)
        let tail = unsafe Self.word(completionRing, completion.tail).pointee.load(ordering: .acquiring)
        while head != tail, list.count < capacity {
            let offset = completion.array + Int(head & completion.mask) * Self.completionSize
            let entry = unsafe completionRing.base + offset
            unsafe list.append(
                Completion(
                    token: entry.load(as: UInt64.self), result: entry.load(fromByteOffset: 8, as: Int32.self))
            )
            head &+= 1
            underWay.wrappingSubtract(1, ordering: .relaxed)
        }
        unsafe headWord.pointee.store(head, ordering: .releasing)
    }

    /// Writes `operation` as a struct io_uring_sqe: opcode 0, flags 1, fd 4, off 8, addr 16, len 24,
    /// operation's flags 28, user_data 32. The file is place 0 of the ring's table.
    private static func fill(
        _ entry: UnsafeMutableRawPointer, _ operation: FileOperation, _ token: UInt64
    ) {
        var address = unsafe UInt64(UInt(bitPattern: operation.vectors))
        var length = unsafe UInt32(operation.vectorCount)
        var flags: UInt32 = 0
        let opcode: UInt8
        switch unsafe operation.kind {
        case .read: opcode = Opcode.readVectors
        case .write: opcode = Opcode.writeVectors
        case .synchronize:
            opcode = Opcode.synchronize
            flags = 1  // IORING_FSYNC_DATASYNC
        case .allocate(let mode):
            opcode = Opcode.allocate
            address = unsafe operation.length
            length = UInt32(bitPattern: mode)
        }
        // SAFETY: the entry is 64 zeroed bytes.
        unsafe entry.storeBytes(of: opcode, as: UInt8.self)
        unsafe entry.storeBytes(of: fixedFile, toByteOffset: 1, as: UInt8.self)
        unsafe entry.storeBytes(of: operation.offset, toByteOffset: 8, as: UInt64.self)
        unsafe entry.storeBytes(of: address, toByteOffset: 16, as: UInt64.self)
        unsafe entry.storeBytes(of: length, toByteOffset: 24, as: UInt32.self)
        unsafe entry.storeBytes(of: flags, toByteOffset: 28, as: UInt32.self)
        unsafe entry.storeBytes(of: token, toByteOffset: 32, as: UInt64.self)
    }

    private static func word(_ mapping: MemoryMapping, _ offset: Int) -> UnsafeMutablePointer<Atomic<UInt32>>
    {
        precondition(offset >= 0 && offset % 4 == 0 && offset <= mapping.size - 4, "ring field out of range")
        // SAFETY: in range and aligned; Atomic<UInt32> has UInt32's layout.
        return unsafe (mapping.base + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }
}
