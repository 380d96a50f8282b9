import BlockStorage
import Dispatch
import Synchronization
@testable import Virtio
@testable import VirtioDevices

/// A disk in memory whose completions come at once, when the test says so, or on another thread.
final class MemoryDisk: BlockBackend {
    enum Mode { case immediate, held, threaded }
    private struct State {
        var bytes: [UInt8]
        var held: [(BlockRequest, @Sendable (Bool) -> Void)] = []
        var operations: [BlockRequest.Operation] = []
        var isFailing = false
        var largestHeld = 0
        var lastBufferCount = 0
        var performed = 0
        var afterwards: (@Sendable () -> Void)?
    }
    private let state: Mutex<State>
    private let worker = DispatchQueue(label: "memory disk")
    private let mode: Mode
    let capacity: UInt64
    let isReadOnly: Bool

    init(sectors: Int = 128, mode: Mode = .immediate, readOnly: Bool = false) {
        capacity = UInt64(sectors)
        self.mode = mode
        isReadOnly = readOnly
        state = Mutex(State(bytes: [UInt8](repeating: 0, count: sectors * 512)))
    }

    func submit(_ request: BlockRequest, completion: @escaping @Sendable (Bool) -> Void) {
        switch mode {
        case .immediate:
            let succeeded = perform(request)
            state.withLock { $0.afterwards }?()
            completion(succeeded)
        case .threaded: worker.async { completion(self.perform(request)) }
        case .held:
            state.withLock { state in
                state.held.append((request, completion))
                state.largestHeld = max(state.largestHeld, state.held.count)
            }
        }
    }

    func drain() {
        while release() {}
        if mode == .threaded { worker.sync {} }
    }

    /// Completes the newest held request; false when there is none.
    @discardableResult
    func release() -> Bool {
        guard let (request, completion) = state.withLock({ $0.held.popLast() }) else { return false }
        completion(perform(request))
        return true
    }

    /// Called after every immediate request, before its completion: what its DMA may have done.
    func setAfterwards(_ action: (@Sendable () -> Void)?) { state.withLock { $0.afterwards = action } }
    var performed: Int { state.withLock { $0.performed } }
    /// Host buffers of the request performed last.
    var lastBufferCount: Int { state.withLock { $0.lastBufferCount } }
    var heldCount: Int { state.withLock { $0.held.count } }
    var largestHeld: Int { state.withLock { $0.largestHeld } }
    var operations: [BlockRequest.Operation] { state.withLock { $0.operations } }
    var isFailing: Bool {
        get { state.withLock { $0.isFailing } }
        set { state.withLock { $0.isFailing = newValue } }
    }
    var bytes: [UInt8] {
        get { state.withLock { $0.bytes } }
        set { state.withLock { $0.bytes = newValue } }
    }

    private func perform(_ request: BlockRequest) -> Bool {
        state.withLock { state in
            guard !state.isFailing else { return false }
            state.lastBufferCount = request.buffers.count
            state.performed += 1
            if state.operations.count < 1000 { state.operations.append(request.operation) }
            let start = Int(request.sector) * 512
            let count = Int(request.sectorCount) * 512
            // The device promised a range inside the capacity: this traps if it lied.
            precondition(start + count <= state.bytes.count)
            switch request.operation {
            case .flush: break
            case .discard, .writeZeroes:
                for at in start..<(start + count) { state.bytes[at] = 0 }
            case .read:
                var at = start
                for buffer in request.buffers {
                    buffer.store(state.bytes[at..<(at + buffer.count)])
                    at += buffer.count
                }
                precondition(at == start + count)
            case .write:
                var at = start
                for buffer in request.buffers {
                    state.bytes.replaceSubrange(at..<(at + buffer.count), with: buffer.bytes)
                    at += buffer.count
                }
                precondition(at == start + count)
            }
            return true
        }
    }
}

/// Collects output, with a limit that a test can move.
final class MemorySink: ByteSink {
    private struct State {
        var bytes: [UInt8] = []
        var room = Int.max
    }
    private let state = Mutex(State())

    func write(_ bytes: [UInt8]) -> Int {
        state.withLock { state in
            let count = min(bytes.count, state.room)
            state.room -= count
            state.bytes += bytes.prefix(count)
            if state.bytes.count > 1 << 16 { state.bytes.removeAll() }
            return count
        }
    }
    var room: Int {
        get { state.withLock { $0.room } }
        set { state.withLock { $0.room = newValue } }
    }
    var text: String { state.withLock { String(decoding: $0.bytes, as: UTF8.self) } }
}

/// A board with one virtio device in slot 4, resources assigned.
struct VirtioBench {
    let bench: PCIBench
    let driver: VirtioTestDriver
    static let slot = 4

    init(_ build: (PCIBench) -> any VirtioFunction) throws {
        bench = try PCIBench()
        bench.bridge.insert(build(bench).function, slot: Self.slot)
        try bench.assignResources()
        driver = VirtioTestDriver(bench, slot: Self.slot)
    }
}
