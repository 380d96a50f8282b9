internal import ByteLayout
public import DeviceModel
public import DisplayDevices
internal import GuestMemory
internal import ScreenSurface
internal import Synchronization
public import Virtio

/// A display adapter with one screen (VIRTIO 1.3 §5.7), 2D only: the guest draws in its own memory and says
/// which parts of it to take over. While no picture is set, another adapter may have the screen.
///
/// Confinement: any thread. Commands run on the thread that notifies, drawing on the screen's.
public final class VirtioGPU: VirtioDevice, ScreenSource {
    public static let kind = "virtio-gpu"
    static let controlQueueSize: UInt16 = 256, cursorQueueSize: UInt16 = 16
    /// Bytes that one turn of the control queue moves, about; then others get a turn.
    static let bytesPerTurn = 64 << 20
    /// What a command costs at least, in bytes of a transfer.
    private static let commandCost = 256
    private static let controlQueue = 0, cursorQueue = 1
    /// What a guest may be asked for: a character's cell of a console, and what an EDID can name.
    static let sides = 16...EDID.longestSide

    public struct Saved: Codable, Sendable, Equatable { var state: GPUState.Saved }

    public let link: VirtioLink
    private let state = Mutex(GPUState())

    public init(_ context: DeviceContext) {
        link = VirtioLink(context, queueSizes: [Self.controlQueueSize, Self.cursorQueueSize])
    }

    public let deviceID: UInt16 = 16
    /// Display controller, other.
    public let classCode: UInt32 = 0x03_80_00
    public var features: UInt64 { GPUFeature.edid }

    // MARK: Configuration

    public var config: [UInt8] {
        var image = [UInt8](repeating: 0, count: GPUConfigField.size)
        image.store(littleEndian: state.withLock { $0.events }, at: GPUConfigField.eventsRead)
        image.store(littleEndian: UInt32(1), at: GPUConfigField.scanoutCount)
        return image
    }

    /// Bits that are written to `events_clear` are cleared in `events_read`.
    public func writeConfig(offset: Int, bytes: [UInt8]) {
        let field = GPUConfigField.eventsClear..<GPUConfigField.eventsClear + 4
        state.withLock { state in
            for (index, byte) in bytes.enumerated() where field.contains(offset + index) {
                state.events &= ~(UInt32(byte) << UInt32(8 * (offset + index - field.lowerBound)))
            }
        }
    }

    // MARK: The host's side

    /// Whether the guest has a driver that hears of another size.
    public var takesSizes: Bool { link.signals.isRunning }

    /// The host would like the screen to have this size, in pixels; cut to what can be. What becomes of it
    /// is the guest's choice.
    public func requestSize(width: Int, height: Int) {
        func cut(_ side: Int) -> Int { min(max(side, Self.sides.lowerBound), Self.sides.upperBound) }
        let isNew = state.withLock { state in
            let isNew = state.width != cut(width) || state.height != cut(height)
            state.width = cut(width)
            state.height = cut(height)
            if isNew { state.events |= GPUConfigField.displayEvent }
            return isNew
        }
        if isNew { link.signals.configurationChanged() }
    }

    /// The guest has set a picture.
    public var wantsScreen: Bool { state.withLock { $0.scanout != nil } }

    public func draw(on canvas: inout ScreenCanvas) {
        let (screen, damage, cursor) = state.withLock { $0.takeDamage() }
        let isNew = canvas.begin(width: screen.width, height: screen.height)
        canvas.show(cursor)
        for part in isNew ? [screen] : damage {
            var row = [UInt32](repeating: 0, count: part.width)
            for y in part.y..<part.bottom {
                // A row at a time: a processor that has something to tell does not wait for long. What
                // changes meanwhile is damage for the next call.
                let isThere = state.withLock { $0.copyRow(y, from: part.x, into: &row, link.memory) }
                guard isThere else { return }
                canvas.put(row, row: y, from: part.x)
            }
        }
    }

    // MARK: Queues

    public func notify(queue index: Int) {
        guard link.queues.indices.contains(index) else { return }
        let queue = link.queues[index]
        guard index == Self.controlQueue else {
            return queue.service { chain in
                moveCursor(chain)
                queue.complete(chain, written: 0)
            }
        }
        var left = Self.bytesPerTurn
        queue.service(while: { left > 0 }) { chain in
            let (answer, cost) = execute(chain)
            left -= cost + Self.commandCost
            queue.complete(chain, written: chain.write(answer, link.memory))
        }
        if left <= 0 { queue.serveLater() }
    }

    private func moveCursor(_ chain: DescriptorChain) {
        let request = chain.read(link.memory, offset: 0, count: GPUField.longest)
        state.withLock { state in
            switch GPUCommand(rawValue: GPUHeader(request).type) {
            case .updateCursor: state.updateCursor(request, link.memory)
            case .moveCursor: state.moveCursor(request)
            default: break
            }
        }
    }

    /// The answer, and how many bytes were moved for it. Fields that a request does not have are zero, which
    /// names no resource.
    private func execute(_ chain: DescriptorChain) -> (answer: [UInt8], cost: Int) {
        let request = chain.read(link.memory, offset: 0, count: GPUField.longest)
        let header = GPUHeader(request)
        let id = request.gpuField(GPUField.resource)
        var answer = GPUAnswer.unspecified, cost = 0, body: [UInt8] = []
        switch GPUCommand(rawValue: header.type) {
        case .getDisplayInfo: (answer, body) = (.displayInfo, displayInfo)
        case .getEDID where request.gpuField(GPUField.edidScanout) == 0: (answer, body) = (.edid, monitor)
        case .getEDID: answer = .invalidScanout
        case .createResource: answer = state.withLock { $0.createResource(request) }
        case .unrefResource: answer = state.withLock { $0.unrefResource(id) }
        case .setScanout: answer = state.withLock { $0.setScanout(request) }
        case .flushResource: answer = state.withLock { $0.flush(request) }
        case .transferToHost: (answer, cost) = state.withLock { $0.transfer(request, link.memory) }
        case .attachBacking: (answer, cost) = attachBacking(chain, request)
        case .detachBacking: answer = state.withLock { $0.detachBacking(id, link.memory) }
        case .updateCursor, .moveCursor, nil: break
        }
        return (header.answer(answer) + body, cost)
    }

    private func attachBacking(_ chain: DescriptorChain, _ request: [UInt8]) -> (GPUAnswer, Int) {
        let count = request.gpuField(GPUField.entryCount)
        guard count > 0, count <= GuestBacking.mostPieces else { return (.invalidParameter, 0) }
        let size = Int(count) * GPUField.entrySize
        let entries = chain.read(link.memory, offset: GPUField.entries, count: size)
        guard entries.count == size else { return (.invalidParameter, size) }
        let id = request.gpuField(GPUField.resource)
        return (state.withLock { $0.attachBacking(id, entries, link.memory) }, size)
    }

    /// One screen that is on, and fifteen that are not there.
    private var displayInfo: [UInt8] {
        let (width, height) = state.withLock { ($0.width, $0.height) }
        var body: [UInt8] = []
        for value in [0, 0, UInt32(width), UInt32(height), 1, 0] { body.append(littleEndian: value) }
        let rest = (GPUAnswerLayout.scanouts - 1) * GPUAnswerLayout.scanoutSize
        return body + [UInt8](repeating: 0, count: rest)
    }

    /// le32 size, le32 padding, then the monitor's description in 1024 bytes.
    private var monitor: [UInt8] {
        let (width, height) = state.withLock { ($0.width, $0.height) }
        var body: [UInt8] = []
        body.append(littleEndian: UInt32(EDID.size))
        body.append(littleEndian: UInt32(0))
        body += EDID(width: width, height: height).bytes
        return body + [UInt8](repeating: 0, count: GPUAnswerLayout.largestEDID - EDID.size)
    }

    // MARK: Lifecycle

    public func reset() { state.withLock { $0.reset() } }

    public func save() -> Saved { Saved(state: state.withLock { $0.save() }) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard let restored = GPUState(saved.state, link.memory) else {
            throw RestoreError(Self.kind, "a resource, the screen or the cursor")
        }
        state.withLock { $0 = restored }
    }
}
