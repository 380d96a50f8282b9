public import LinuxHost
import Synchronization

/// Tells `perf` what translated code is: one line `START SIZE NAME` for each piece, numbers in hexadecimal
/// (linux, tools/perf/Documentation/jit-interface.txt).
///
/// A line is written when the code is made and never taken back: when a cache is emptied and filled again, an
/// address has several names, and `perf` picks one.
///
/// Confinement: any thread. A vCPU waits for others only while they copy a line, or one of them writes.
public final class PerfMap: Sendable {
    /// Bytes of the file, at most: some 800,000 blocks.
    public static let mostBytes = 64 << 20
    /// Kept in memory before they are written.
    private static let bufferBytes = 64 << 10
    /// The file's last line when there was more to say: code of one byte at address 0.
    private static let last = Array("0 1 (the map is full: code that came later has no name here)\n".utf8)

    private struct State {
        var buffer: [UInt8] = []
        var written = 0
        /// Nothing is taken any more: the file is full or cannot be written.
        var isClosed = false
    }
    private let file: LinuxHost.Descriptor
    private let limit: Int
    private let state = Mutex(State())

    /// - Parameter file: an empty file, written from its beginning.
    /// - Parameter limit: bytes that it may become.
    public init(_ file: LinuxHost.Descriptor, limit: Int = PerfMap.mostBytes) {
        self.file = file
        self.limit = limit
    }

    /// Names the code at `code`. A name without line breaks.
    func add(_ code: Range<UInt>, _ name: String) {
        let line = "\(String(code.lowerBound, radix: 16)) \(String(code.count, radix: 16)) \(name)\n"
        state.withLock { state in
            guard !state.isClosed else { return }
            let used = state.written + state.buffer.count
            if used + line.utf8.count + Self.last.count > limit {
                state.buffer += Self.last
                write(&state)
                state.isClosed = true
                return
            }
            state.buffer += line.utf8
            if state.buffer.count >= Self.bufferBytes { write(&state) }
        }
    }

    /// Writes what is still in memory.
    public func flush() { state.withLock { if !$0.isClosed { write(&$0) } } }

    private func write(_ state: inout State) {
        do throws(HostError) {
            try file.write(state.buffer, at: UInt64(state.written))
            state.written += state.buffer.count
        } catch {
            // A full disk: the guest does not depend on its map.
            state.isClosed = true
        }
        state.buffer.removeAll(keepingCapacity: true)
    }
}

extension SoftVCPU {
    /// Names `block`, which was just translated and is at RIP, in the map of the engine if it keeps one.
    func nameCode(of block: BlockView, _ cache: TranslationCache) {
        guard let map = engine.perfMap else { return }
        let end = cache.arena.start + UInt(cache.arena.used)
        let place = cpu.s.cpl == 3 ? "user" : "kernel"
        let mnemonic = cache.firstMnemonic?.name ?? "nothing"
        map.add(
            block.b.code..<end, "guest_\(place)_\(String(cpu.linearRIP, radix: 16))_\(mnemonic)")
    }

    /// Names the code between Swift and blocks.
    func nameGates(of cache: TranslationCache) {
        guard let map = engine.perfMap else { return }
        let end = cache.arena.start + UInt(cache.arena.used)
        let routines = cache.gates.routines
        for (number, routine) in routines.enumerated() {
            let next = number + 1 < routines.count ? routines[number + 1].address : end
            if routine.address < next { map.add(routine.address..<next, "ospite_gate_\(routine.name)") }
        }
    }
}

extension GateCode {
    /// What can be called or jumped to, by address.
    var routines: [(name: String, address: UInt)] {
        let moves = self.moves.enumerated().map { ("rep_movs_\(1 << $0)", $1) }
        let stores = self.stores.enumerated().map { ("rep_stos_\(1 << $0)", $1) }
        let others = [
            ("enter", enter), ("exit_go_on", exitGoOn), ("exit_link", exitLink), ("exit_here", exitHere),
            ("exit_interpret", exitInterpret), ("exit_branch", exitBranch), ("exit_stale", exitStale),
            ("exit_far", exitFar), ("far_by_table", farByTable), ("exit_target", exitTarget),
            ("escape", escape), ("fill", fill), ("ensure", ensure),
        ]
        let returns = ReturnFrame.allCases.map { ("return_miss_\($0)", returnMiss($0)) }
        return (moves + stores + others + returns).sorted { $0.1 < $1.1 }
    }
}
