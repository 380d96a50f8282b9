internal import ByteLayout
public import DeviceModel
internal import Synchronization
public import Virtio

/// A keyboard or a tablet (VIRTIO 1.3 §5.8).
///
/// What the user does changes what is *wanted*; the guest is told the difference to what it was *told*
/// before. As long as it takes its events, each step reaches it; one that sleeps misses steps in between,
/// never where it ends: no key stays down, and the pointer is where it was put last.
///
/// Confinement: any thread.
public final class VirtioInput: VirtioDevice, PointerTarget, KeyTarget {
    public static let kind = "virtio-input"
    static let queueSize: UInt16 = 64
    /// Events that wait; beyond, steps are left out. A few hundred strokes of a key.
    static let mostEvents = 512
    /// Positions of a tablet, in both directions.
    static let largestPosition: UInt16 = 32_767
    private static let eventQueue = 0
    private static let statusQueue = 1

    /// What the device is.
    public enum Kind: String, Codable, Sendable { case keyboard, tablet }

    /// Which keys are down, and where the pointer is.
    struct Posture: Codable, Equatable, Sendable {
        /// Numbers of `InputCode`, buttons too.
        var keys: Set<UInt16> = []
        var x: UInt16 = 0, y: UInt16 = 0
        /// Steps away from the user since the guest was told.
        var wheel: Int32 = 0
    }

    public struct Saved: Codable, Sendable, Equatable {
        var kind: Kind
        var select: UInt8
        var subselect: UInt8
        var wanted: Posture
        var told: Posture
        var events: [InputEvent]
    }

    private struct State {
        var select: UInt8 = 0, subselect: UInt8 = 0
        var wanted = Posture(), told = Posture()
        /// Events on their way to the guest.
        var events: [InputEvent] = []
    }

    public let link: VirtioLink
    public let device: Kind
    private let state = Mutex(State())

    public init(_ context: DeviceContext, _ device: Kind) {
        self.device = device
        link = VirtioLink(context, queueSizes: [Self.queueSize, Self.queueSize])
    }

    public let deviceID: UInt16 = 18
    /// Keyboard, or an input device of another kind than a mouse.
    public var classCode: UInt32 { device == .keyboard ? 0x09_00_00 : 0x09_80_00 }
    public var features: UInt64 { 0 }

    // MARK: What the user does

    /// Whether a driver takes events.
    public var isListening: Bool { link.signals.isRunning }

    /// A key that the keyboard does not have changes nothing.
    public func key(code: UInt8, isDown: Bool) {
        guard device == .keyboard, let number = InputKeys.number(code) else { return }
        change { posture in
            if isDown { posture.keys.insert(number) } else { posture.keys.remove(number) }
        }
    }

    public func point(x: UInt16, y: UInt16, buttons: UInt8, wheel: Int32) {
        guard device == .tablet else { return }
        change { posture in
            // Half as many places as parts.
            posture.x = x >> 1
            posture.y = y >> 1
            posture.wheel = min(max(posture.wheel &- max(min(wheel, 127), -127), -127), 127)
            for (bit, code) in InputCode.buttons.enumerated() {
                if buttons >> UInt8(bit) & 1 != 0 {
                    posture.keys.insert(code)
                } else {
                    posture.keys.remove(code)
                }
            }
        }
    }

    private func change(_ body: (inout Posture) -> Void) {
        guard isListening else { return }
        state.withLock { state in
            body(&state.wanted)
            // Movement alone waits for the guest to take what there is; what is pressed does not.
            if state.events.isEmpty || state.wanted.keys != state.told.keys { Self.tell(&state) }
            deliver(&state)
        }
    }

    /// Turns the difference between wanted and told into events.
    private static func tell(_ state: inout State) {
        guard state.wanted != state.told, state.events.count < mostEvents else { return }
        let (wanted, told) = (state.wanted, state.told)
        func add(_ type: UInt16, _ code: UInt16, _ value: Int32) {
            state.events.append(InputEvent(type: type, code: code, value: value))
        }
        if wanted.x != told.x { add(InputCode.absolute, InputCode.x, Int32(wanted.x)) }
        if wanted.y != told.y { add(InputCode.absolute, InputCode.y, Int32(wanted.y)) }
        for code in told.keys.subtracting(wanted.keys).sorted() { add(InputCode.key, code, 0) }
        for code in wanted.keys.subtracting(told.keys).sorted() { add(InputCode.key, code, 1) }
        if wanted.wheel != 0 { add(InputCode.relative, InputCode.wheel, wanted.wheel) }
        add(InputCode.synchronize, InputCode.report, 0)
        state.wanted.wheel = 0
        state.told = state.wanted
    }

    /// Stores events into buffers, as many as there are.
    private func deliver(_ state: inout State) {
        let queue = link.queues[Self.eventQueue]
        // Each turn takes an event, or a buffer that is of no use.
        var turns = Self.mostEvents + 2 * Int(Self.queueSize), taken = 0
        while turns > 0 {
            turns -= 1
            if taken == state.events.count {
                state.events = []
                taken = 0
                Self.tell(&state)
                if state.events.isEmpty { break }
            }
            guard let chain = queue.pop() else {
                if queue.armNotifications() { continue }
                break
            }
            guard chain.writableCount >= InputEvent.size else {
                queue.complete(chain, written: 0)
                continue
            }
            queue.complete(chain, written: chain.write(state.events[taken].bytes, link.memory))
            taken += 1
        }
        state.events.removeFirst(taken)
    }

    public func notify(queue: Int) {
        if queue == Self.eventQueue {
            state.withLock { deliver(&$0) }
        } else if queue == Self.statusQueue {
            // Lights of a keyboard that nobody sees.
            let queue = link.queues[Self.statusQueue]
            queue.service { chain in queue.complete(chain, written: 0) }
        }
    }

    // MARK: Configuration

    public var config: [UInt8] {
        let (select, subselect) = state.withLock { ($0.select, $0.subselect) }
        let answer = answer(select, subselect)
        var image: [UInt8] = [select, subselect, UInt8(answer.count), 0, 0, 0, 0, 0]
        image += answer
        return image + [UInt8](repeating: 0, count: VirtioInputConfig.count - image.count)
    }

    public func writeConfig(offset: Int, bytes: [UInt8]) {
        state.withLock { state in
            for (index, byte) in bytes.prefix(VirtioInputConfig.count).enumerated() {
                switch offset + index {
                case VirtioInputConfig.select: state.select = byte
                case VirtioInputConfig.subselect: state.subselect = byte
                default: break
                }
            }
        }
    }

    /// At most 128 bytes; empty for what the device does not have.
    private func answer(_ select: UInt8, _ subselect: UInt8) -> [UInt8] {
        typealias Select = VirtioInputConfig.Select
        switch (select, UInt16(subselect)) {
        case (Select.name, 0):
            return Array("Ospite Virtio \(device == .keyboard ? "Keyboard" : "Tablet")".utf8)
        case (Select.serial, 0): return Array("\(device.rawValue)0".utf8)
        case (Select.identity, 0):
            // BUS_VIRTUAL; the vendor is virtio's, the product ours to choose.
            var bytes: [UInt8] = []
            for value in [0x06, 0x1AF4, device == .keyboard ? 1 : 3, 1] as [UInt16] {
                bytes.append(littleEndian: value)
            }
            return bytes
        case (Select.events, let type): return Self.bitmap(codes(ofType: type))
        case (Select.axis, InputCode.x) where device == .tablet,
            (Select.axis, InputCode.y) where device == .tablet:
            var bytes: [UInt8] = []
            for value in [0, UInt32(Self.largestPosition), 0, 0, 0] { bytes.append(littleEndian: value) }
            return bytes
        default: return []
        }
    }

    private func codes(ofType type: UInt16) -> [UInt16] {
        switch (device, type) {
        case (.keyboard, InputCode.key): InputKeys.all
        case (.keyboard, InputCode.light): (0..<InputCode.numberOfLights).map { UInt16($0) }
        // Delay and period.
        case (.keyboard, InputCode.autorepeat): [0, 1]
        case (.tablet, InputCode.key): InputCode.buttons
        case (.tablet, InputCode.absolute): [InputCode.x, InputCode.y]
        case (.tablet, InputCode.relative): [InputCode.wheel]
        default: []
        }
    }

    private static func bitmap(_ codes: [UInt16]) -> [UInt8] {
        guard let last = codes.max() else { return [] }
        var bytes = [UInt8](repeating: 0, count: Int(last) / 8 + 1)
        for code in codes { bytes[Int(code) / 8] |= 1 << UInt8(code % 8) }
        return bytes
    }

    // MARK: Lifecycle

    public func reset() { state.withLock { $0 = State() } }

    public func save() -> Saved {
        state.withLock { state in
            Saved(
                kind: device, select: state.select, subselect: state.subselect, wanted: state.wanted,
                told: state.told, events: state.events)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.kind == device else { throw RestoreError(Self.kind, "another kind of input device") }
        // A report has at most an event for each key, and a few more.
        guard saved.events.count <= 2 * Self.mostEvents, saved.wanted.keys.count <= Self.mostEvents,
            saved.told.keys.count <= Self.mostEvents
        else { throw RestoreError(Self.kind, "more events than the limits allow") }
        state.withLock { state in
            state.select = saved.select
            state.subselect = saved.subselect
            state.wanted = saved.wanted
            state.told = saved.told
            state.events = saved.events
        }
    }
}
