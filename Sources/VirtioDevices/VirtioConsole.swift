internal import ByteLayout
public import DeviceModel
internal import Synchronization
public import Virtio

/// Where the guest's output goes. Any thread; must not block and must not call the console back from inside.
public protocol ByteSink: AnyObject, Sendable {
    /// Takes the first bytes, as many as fit, and returns how many. After taking fewer than all, the owner
    /// calls `VirtioConsole.sinkIsReady` when there is room again.
    func write(_ bytes: [UInt8]) -> Int
}

/// A console with one port (VIRTIO 1.3 §5.3). Output waits when the sink is full; input is buffered up to
/// 64 KiB, and the source keeps what is beyond.
///
/// Confinement: any thread.
public final class VirtioConsole: VirtioDevice {
    public static let kind = "virtio-console"
    static let queueSize: UInt16 = 128
    static let inputLimit = 65_536
    /// Bytes taken from one transmit buffer; no driver sends more, and the rest of a longer one is dropped.
    static let outputLimit = 1 << 20
    private static let receiveQueue = 0
    private static let transmitQueue = 1
    private static let sizeFeature: UInt64 = 1 << 0
    private static let emergencyWriteFeature: UInt64 = 1 << 2
    private static let emergencyWriteOffset = 8

    public struct Saved: Codable, Sendable, Equatable {
        public var columns: UInt16
        public var rows: UInt16
        public var input: [UInt8]
        public var output: [UInt8]
    }

    private struct State {
        var columns: UInt16 = 80
        var rows: UInt16 = 25
        /// Bytes for the guest; the ones before `inputStart` are gone.
        var input: [UInt8] = []
        var inputStart = 0
        /// Bytes that the sink did not take yet.
        var output: [UInt8] = []
        var inputCount: Int { input.count - inputStart }
    }

    public let link: VirtioLink
    private let sink: any ByteSink
    private let onInputRoom: @Sendable () -> Void
    private let state = Mutex(State())

    /// `onInputRoom`: the guest took input, so that `receive` may take more. Called with no lock held.
    public init(
        _ context: DeviceContext, sink: any ByteSink, onInputRoom: @escaping @Sendable () -> Void = {}
    ) {
        self.sink = sink
        self.onInputRoom = onInputRoom
        link = VirtioLink(context, queueSizes: [Self.queueSize, Self.queueSize])
    }

    public let deviceID: UInt16 = 3
    /// Simple communication controller, other.
    public let classCode: UInt32 = 0x07_80_00
    public var features: UInt64 { Self.sizeFeature | Self.emergencyWriteFeature }

    /// le16 cols, le16 rows, le32 max_nr_ports, le32 emerg_wr.
    public var config: [UInt8] {
        let (columns, rows) = state.withLock { ($0.columns, $0.rows) }
        var image: [UInt8] = []
        image.append(littleEndian: columns)
        image.append(littleEndian: rows)
        image.append(littleEndian: UInt32(1))
        image.append(littleEndian: UInt32(0))
        return image
    }

    /// An emergency write prints one character without any queue (§5.3.4).
    public func writeConfig(offset: Int, bytes: [UInt8]) {
        guard offset == Self.emergencyWriteOffset, let character = bytes.first else { return }
        state.withLock { state in
            if state.output.isEmpty { _ = sink.write([character]) }
        }
    }

    /// Tells the guest the size of the terminal.
    public func resize(columns: UInt16, rows: UInt16) {
        state.withLock { state in
            state.columns = columns
            state.rows = rows
        }
        link.signals.configurationChanged()
    }

    public func notify(queue: Int) {
        if queue == Self.receiveQueue {
            state.withLock { fillReceiveBuffers(&$0) }
            onInputRoom()
        } else if queue == Self.transmitQueue {
            transmit()
        }
    }

    // MARK: Output

    private func transmit() {
        let queue = link.queues[Self.transmitQueue]
        queue.service(while: { state.withLock { $0.output.isEmpty } }) { chain in
            let bytes = chain.read(link.memory, offset: 0, count: min(chain.readableCount, Self.outputLimit))
            state.withLock { state in
                state.output = bytes
                flushOutput(&state)
            }
            queue.complete(chain, written: 0)
        }
    }

    private func flushOutput(_ state: inout State) {
        guard !state.output.isEmpty else { return }
        let taken = min(max(sink.write(state.output), 0), state.output.count)
        state.output.removeFirst(taken)
    }

    /// The sink has room again.
    public func sinkIsReady() {
        state.withLock { flushOutput(&$0) }
        transmit()
    }

    // MARK: Input

    /// Offers bytes for the guest; returns how many were taken. The rest may be offered when `inputRoom`
    /// says so.
    public func receive(_ bytes: [UInt8]) -> Int {
        state.withLock { state in
            let count = min(bytes.count, Self.inputLimit - state.inputCount)
            state.input += bytes.prefix(count)
            fillReceiveBuffers(&state)
            return count
        }
    }

    /// Bytes that `receive` would take now.
    public var inputRoom: Int { state.withLock { Self.inputLimit - $0.inputCount } }

    private func fillReceiveBuffers(_ state: inout State) {
        let queue = link.queues[Self.receiveQueue]
        // Each turn uses a byte, or a buffer that is of no use; a driver that adds those for ever is not
        // followed.
        var turns = state.inputCount + 2 * Int(Self.queueSize)
        while state.inputCount > 0, turns > 0 {
            turns -= 1
            guard let chain = queue.pop() else {
                if queue.armNotifications() { continue }
                break
            }
            let count = min(chain.writableCount, state.inputCount)
            let part = Array(state.input[state.inputStart..<(state.inputStart + count)])
            let written = chain.write(part, link.memory)
            state.inputStart += written
            queue.complete(chain, written: written)
        }
        // Drop what is consumed once it outweighs the rest, so that the cost per byte stays constant.
        if state.inputStart >= state.inputCount {
            state.input.removeFirst(state.inputStart)
            state.inputStart = 0
        }
    }

    // MARK: Lifecycle

    public func reset() {
        state.withLock { state in
            state.input = []
            state.inputStart = 0
        }
    }

    public func save() -> Saved {
        state.withLock { state in
            Saved(
                columns: state.columns, rows: state.rows,
                input: Array(state.input.dropFirst(state.inputStart)),
                output: state.output)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.input.count <= Self.inputLimit, saved.output.count <= Self.outputLimit else {
            throw RestoreError(Self.kind, "more buffered bytes than the limits allow")
        }
        state.withLock { state in
            state = State(
                columns: saved.columns, rows: saved.rows, input: saved.input, inputStart: 0,
                output: saved.output)
        }
    }
}
