internal import GDBRemote
internal import GuestMemory
internal import VCPUEngine
internal import X86Architecture

/// The machine as a debugger's session sees it: registers, memory, and the places to stop at.
///
/// Confinement: the main thread of the machine's process, while every vCPU is held.
struct DebuggedMachine: DebugTarget {
    let memory: GuestMemory
    let threads: [VCPUThread]
    /// In the order of their coming.
    private(set) var points: [DebugPoint] = []
    /// vCPUs that run one instruction, or nothing at all, when the machine goes on.
    private(set) var stepping: Set<Int> = []
    private(set) var still: Set<Int> = []

    /// More than anybody sets by hand; each costs time at every stop.
    private static let mostPoints = 1024

    init(memory: GuestMemory, threads: [VCPUThread]) {
        self.memory = memory
        self.threads = threads
    }

    var vcpuCount: Int { threads.count }

    func state(ofVCPU index: Int) -> VCPUState { threads[index].vcpu.state() }
    func load(_ state: VCPUState, intoVCPU index: Int) { threads[index].vcpu.load(state) }

    // MARK: Memory

    func physicalAddress(of linear: UInt64, vcpu: Int) -> UInt64? {
        physicalAddress(linear, PageTableView(state(ofVCPU: vcpu)))
    }

    private func physicalAddress(_ linear: UInt64, _ tables: PageTableView) -> UInt64? {
        tables.physical(linear) { address, size in
            if size == 4 {
                return (try? memory.load(UInt32.self, at: GuestAddress(address))).map(UInt64.init)
            }
            return try? memory.load(UInt64.self, at: GuestAddress(address))
        }
    }

    /// Runs of bytes that lie in one page: their physical addresses and how many they are. Ends with the
    /// first page that is not there.
    private func runs(_ address: UInt64, _ count: Int, _ space: DebugAddressSpace) -> [(UInt64, Int)] {
        let tables: PageTableView? =
            if case .linear(let vcpu) = space { PageTableView(state(ofVCPU: vcpu)) } else { nil }
        var runs: [(UInt64, Int)] = []
        var done = 0
        while done < count {
            let next = address &+ UInt64(done)
            let size = min(count - done, Int(4096 - next & 0xFFF))
            guard let physical = tables.map({ physicalAddress(next, $0) }) ?? next else { break }
            runs.append((physical, size))
            done += size
        }
        return runs
    }

    func readMemory(_ address: UInt64, count: Int, in space: DebugAddressSpace) -> [UInt8] {
        var bytes: [UInt8] = []
        for (physical, size) in runs(address, count, space) {
            guard let part = try? memory.bytes(GuestAddress(physical), count: size) else { break }
            bytes += part
        }
        return bytes
    }

    func writeMemory(_ bytes: [UInt8], at address: UInt64, in space: DebugAddressSpace) -> Bool {
        var rest = bytes[...]
        for (physical, size) in runs(address, bytes.count, space) {
            // A debugger may change ROM, too.
            guard (try? memory.install(rest.prefix(size), at: GuestAddress(physical))) != nil else { break }
            rest = rest.dropFirst(size)
        }
        return rest.isEmpty
    }

    // MARK: Stops

    mutating func insert(_ point: DebugPoint) -> Bool {
        if points.contains(point) { return true }
        guard points.count < Self.mostPoints else { return false }
        points.append(point)
        guard point.kind.isWatchpoint else { return true }
        // Whether the engine can is the same for every vCPU.
        guard (1...DebugStops.Watchpoint.longest).contains(point.length),
            threads[0].vcpu.setDebugStops(stops(ofVCPU: 0))
        else {
            points.removeLast()
            return false
        }
        return true
    }

    mutating func remove(_ point: DebugPoint) {
        // What gdb says about an instruction's length may differ.
        points.removeAll {
            $0.kind == point.kind && $0.address == point.address
                && (!point.kind.isWatchpoint || $0.length == point.length)
        }
    }

    mutating func removeAll() {
        points = []
        stepping = []
        still = []
        setStops()
    }

    mutating func plan(running: Set<Int>, stepping: Set<Int>) {
        self.stepping = stepping
        still = Set(0..<threads.count).subtracting(running).subtracting(stepping)
        setStops()
    }

    /// Tells the vCPUs, all of them held, where to stop.
    func setStops() {
        for (index, thread) in threads.enumerated() { _ = thread.vcpu.setDebugStops(stops(ofVCPU: index)) }
    }

    private func stops(ofVCPU index: Int) -> DebugStops {
        var stops = DebugStops()
        stops.stepsOnce = stepping.contains(index)
        for point in points {
            let access: DebugStops.Watchpoint.Access
            switch point.kind {
            case .software, .hardware:
                stops.breakpoints.insert(point.address)
                continue
            case .write: access = .write
            case .read: access = .read
            case .access: access = .any
            }
            stops.watchpoints.append(
                .init(address: point.address, length: point.length, access: access))
        }
        return stops
    }

    /// What to tell about a stop of vCPU `index`.
    func report(_ stop: DebugStop, vcpu index: Int) -> DebugReport {
        switch stop {
        case .stepped: return .stepped
        case .breakpoint:
            let address = linearInstructionAddress(state(ofVCPU: index))
            let isSoftware = points.contains { $0.kind == .software && $0.address == address }
            return .breakpoint(isHardware: !isSoftware)
        case .watchpoint(let watchpoint):
            let kind: DebugPoint.Kind =
                switch watchpoint.access {
                case .read: .read
                case .write: .write
                case .any: .access
                }
            return .watchpoint(kind: kind, address: watchpoint.address)
        }
    }

    private func linearInstructionAddress(_ state: VCPUState) -> UInt64 {
        let code = state.segments[Int(SegmentRegister.cs.rawValue)]
        let isLong = state.efer & EFER.longModeActive != 0 && code.attributes & (1 << 13) != 0
        return isLong ? state.rip : (code.base &+ state.rip) & 0xFFFF_FFFF
    }
}
