import ByteLayout
public import DeviceModel
import Synchronization

/// A parallel NOR flash with Intel's command set (CFI publication 100; Intel StrataFlash data sheet 290667),
/// one byte wide, as OVMF keeps its variables in: reads give the array until a command asks for something
/// else. As QEMU's, on which OVMF relies, it programs zeroes over ones and ones over zeroes alike, and
/// clearing the status clears the ready bit too.
///
/// What changed is handed to `persist` when the guest goes back to reading the array, and before a pause.
///
/// Confinement: any thread. `persist` runs with the device's lock held and must not call it.
public final class FlashMemory: MemoryMappedDevice {
    public static let kind = "flash"
    public static let blockSize = 4096
    /// In bytes: multiples of a block.
    public static let sizes = blockSize...(16 << 20)

    public struct Saved: Codable, Sendable, Equatable {
        var bytes: [UInt8]
        var mode: UInt8
        var pending: UInt8
        var status: UInt8
        /// Of a buffered write: bytes that are still to come, and those that came with their offsets.
        var expected: Int
        var buffered: [Buffered]
    }
    struct Buffered: Codable, Sendable, Equatable {
        var offset: UInt32
        var byte: UInt8
    }

    /// What reads give.
    private enum Mode: UInt8 { case array, status, identifier, query }
    /// The command whose next cycle comes.
    private enum Pending: UInt8 { case none, program, erase, count, data, confirm, lock }
    private enum Command {
        static let readArray: UInt8 = 0xFF, readIdentifier: UInt8 = 0x90, readQuery: UInt8 = 0x98
        static let readStatus: UInt8 = 0x70, clearStatus: UInt8 = 0x50
        static let program: UInt8 = 0x40, programAlias: UInt8 = 0x10, bufferedProgram: UInt8 = 0xE8
        static let erase: UInt8 = 0x20, confirm: UInt8 = 0xD0, lock: UInt8 = 0x60, amdReset: UInt8 = 0xF0
    }
    private enum Status {
        static let ready: UInt8 = 0x80, eraseError: UInt8 = 0x20, programError: UInt8 = 0x10
    }
    /// Bytes of one buffered write.
    private static let largestBuffer = 256

    private struct State {
        var bytes: [UInt8]
        var mode = Mode.array
        var pending = Pending.none
        var status = Status.ready
        var expected = 0
        var buffered: [Buffered] = []
        /// What the backing has not seen.
        var changed: Range<Int>?

        mutating func set(_ offset: Int, _ byte: UInt8) {
            guard bytes.indices.contains(offset) else { return }
            bytes[offset] = byte
            note(offset..<offset + 1)
        }

        mutating func note(_ range: Range<Int>) {
            guard let changed else {
                self.changed = range
                return
            }
            self.changed =
                min(changed.lowerBound, range.lowerBound)..<max(changed.upperBound, range.upperBound)
        }

        mutating func readArray() {
            mode = .array
            pending = .none
            expected = 0
            buffered = []
        }
    }
    private let state: Mutex<State>
    private let persist: @Sendable (_ offset: Int, _ bytes: ArraySlice<UInt8>) -> Void
    private let query: [UInt8]

    public init(contents: [UInt8], persist: @escaping @Sendable (Int, ArraySlice<UInt8>) -> Void) {
        precondition(
            Self.sizes.contains(contents.count) && contents.count % Self.blockSize == 0, "whole blocks")
        state = Mutex(State(bytes: contents))
        self.persist = persist
        query = Self.query(size: contents.count)
    }

    /// The CFI query structure: "QRY" at 10h, Intel's command set, size and blocks.
    private static func query(size: Int) -> [UInt8] {
        var table = [UInt8](repeating: 0, count: 0x31)
        table.replaceSubrange(0x10..<0x15, with: Array("QRY".utf8) + [0x01, 0x00])
        table[0x27] = UInt8(Int.bitWidth - (size - 1).leadingZeroBitCount)
        table[0x2A] = UInt8(largestBuffer.trailingZeroBitCount)
        table[0x2C] = 1
        table.store(littleEndian: UInt16(clamping: size / blockSize - 1), at: 0x2D)
        table.store(littleEndian: UInt16(blockSize / 256), at: 0x2F)
        return table
    }

    // MARK: Bus cycles

    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        state.withLock { state in
            var value: UInt64 = 0
            for byte in 0..<width.bytes {
                let place = Int(clamping: offset) &+ byte
                value |= UInt64(shown(state, place)) << UInt64(8 * byte)
            }
            return value
        }
    }

    private func shown(_ state: borrowing State, _ place: Int) -> UInt8 {
        switch state.mode {
        case .array: return state.bytes.indices.contains(place) ? state.bytes[place] : 0xFF
        case .status: return state.status
        // Intel, 28F008.
        case .identifier: return place & 1 == 0 ? 0x89 : 0xA6
        case .query: return place & 0xFF < query.count ? query[place & 0xFF] : 0
        }
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        state.withLock { state in
            let place = Int(clamping: offset), byte = UInt8(truncatingIfNeeded: value)
            switch state.pending {
            case .none: begin(byte, &state)
            case .program:
                for index in 0..<width.bytes {
                    state.set(place &+ index, UInt8(truncatingIfNeeded: value >> UInt64(8 * index)))
                }
                end(&state)
            case .erase: erase(place, byte, &state)
            case .count:
                state.expected = Int(byte) + 1
                state.pending = .data
            case .data:
                state.buffered.append(Buffered(offset: UInt32(clamping: place), byte: byte))
                if state.buffered.count == state.expected { state.pending = .confirm }
            case .confirm:
                if byte == Command.confirm {
                    for write in state.buffered { state.set(Int(write.offset), write.byte) }
                } else {
                    state.status |= Status.programError
                }
                state.buffered = []
                end(&state)
            // Blocks cannot be locked; the second cycle changes nothing.
            case .lock: end(&state)
            }
        }
    }

    private func begin(_ command: UInt8, _ state: inout State) {
        switch command {
        case Command.readIdentifier: state.mode = .identifier
        case Command.readQuery: state.mode = .query
        case Command.readStatus: state.mode = .status
        case Command.clearStatus:
            state.status = 0
            goBack(&state)
        case Command.program, Command.programAlias: wait(.program, &state)
        case Command.erase: wait(.erase, &state)
        case Command.lock: wait(.lock, &state)
        case Command.bufferedProgram:
            state.status |= Status.ready
            wait(.count, &state)
        default: goBack(&state)
        }
    }

    private func wait(_ pending: Pending, _ state: inout State) {
        state.pending = pending
        state.mode = .status
    }

    /// The cycles of a command are complete.
    private func end(_ state: inout State) {
        state.status |= Status.ready
        state.pending = .none
    }

    private func erase(_ place: Int, _ byte: UInt8, _ state: inout State) {
        let start = place / Self.blockSize * Self.blockSize
        if byte == Command.confirm, start < state.bytes.count {
            let block = start..<start + Self.blockSize
            state.bytes.replaceSubrange(block, with: [UInt8](repeating: 0xFF, count: Self.blockSize))
            state.note(block)
        } else if byte != Command.confirm {
            state.status |= Status.eraseError
        }
        end(&state)
    }

    /// Back to the array, and what changed to its backing.
    private func goBack(_ state: inout State) {
        state.readArray()
        store(&state)
    }

    private func store(_ state: inout State) {
        guard let changed = state.changed else { return }
        persist(changed.lowerBound, state.bytes[changed])
        state.changed = nil
    }

    // MARK: Lifecycle

    /// The array stays.
    public func reset() {
        state.withLock { state in
            goBack(&state)
            state.status = Status.ready
        }
    }

    public func pause() { state.withLock { store(&$0) } }

    public func save() -> Saved {
        state.withLock {
            Saved(
                bytes: $0.bytes, mode: $0.mode.rawValue, pending: $0.pending.rawValue, status: $0.status,
                expected: $0.expected, buffered: $0.buffered)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard let mode = Mode(rawValue: saved.mode), let pending = Pending(rawValue: saved.pending),
            (0...Self.largestBuffer).contains(saved.expected), saved.buffered.count <= saved.expected,
            pending != .data || saved.buffered.count < saved.expected
        else { throw RestoreError(Self.kind, "a command") }
        try state.withLock { state throws(RestoreError) in
            guard saved.bytes.count == state.bytes.count else {
                throw RestoreError(Self.kind, "the size of the array")
            }
            state = State(
                bytes: saved.bytes, mode: mode, pending: pending, status: saved.status,
                expected: saved.expected, buffered: saved.buffered)
            state.note(0..<saved.bytes.count)
        }
    }
}
