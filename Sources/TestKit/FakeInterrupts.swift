public import DeviceModel
import Synchronization

/// Remembers every change that devices make to their interrupt lines. Any thread.
public final class RecordingInterruptSink: InterruptSink {
    public struct Change: Equatable, Sendable {
        public var line: Int
        public var asserted: Bool
        public init(_ line: Int, _ asserted: Bool) {
            self.line = line
            self.asserted = asserted
        }
    }
    private struct State {
        var changes: [Change] = []
        var high: Set<Int> = []
        var rises: [Int: Int] = [:]
    }
    private let state = Mutex(State())

    public init() {}

    public func setLine(_ line: Int, asserted: Bool) {
        state.withLock { state in
            state.changes.append(Change(line, asserted))
            if asserted {
                if state.high.insert(line).inserted { state.rises[line, default: 0] += 1 }
            } else {
                state.high.remove(line)
            }
        }
    }

    public func isHigh(_ line: Int) -> Bool { state.withLock { $0.high.contains(line) } }
    /// Rising edges of `line` since the start or the last `takeChanges`.
    public func rises(_ line: Int) -> Int { state.withLock { $0.rises[line, default: 0] } }

    /// The changes since the last call, in order; also restarts the counts of edges.
    @discardableResult
    public func takeChanges() -> [Change] {
        state.withLock { state in
            defer {
                state.changes = []
                state.rises = [:]
            }
            return state.changes
        }
    }
}

/// Remembers message-signalled interrupts. Any thread.
public final class RecordingMSITarget: MSITarget {
    private let messages = Mutex<[MSIMessage]>([])

    public init() {}

    public func deliver(_ message: MSIMessage) { messages.withLock { $0.append(message) } }

    /// The messages since the last call, in order.
    @discardableResult
    public func takeMessages() -> [MSIMessage] {
        messages.withLock { messages in
            defer { messages = [] }
            return messages
        }
    }
}

/// Remembers values that a device hands out: events, bytes, wake-ups. Any thread.
public final class Recorder<Element: Sendable>: Sendable {
    private let elements = Mutex<[Element]>([])

    public init() {}

    public func record(_ element: Element) { elements.withLock { $0.append(element) } }
    public var all: [Element] { elements.withLock { $0 } }

    /// The values since the last call, in order.
    @discardableResult
    public func take() -> [Element] {
        elements.withLock { elements in
            defer { elements = [] }
            return elements
        }
    }
}
