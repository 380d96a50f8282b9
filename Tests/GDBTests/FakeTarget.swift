import X86Architecture

@testable import GDBRemote

/// A machine of two vCPUs that never runs: 64 KiB of memory at 0x1000, seen by linear addresses from
/// 0xFFFF800000001000 on.
struct FakeTarget: DebugTarget {
    static let start: UInt64 = 0x1000, linearStart: UInt64 = 0xFFFF_8000_0000_1000
    var states = [VCPUState(), VCPUState()]
    var memory = (0..<0x10000).map { UInt8(truncatingIfNeeded: $0) }
    var points: Set<DebugPoint> = []
    /// The longest that it watches.
    var longestWatch: UInt64 = 8

    var vcpuCount: Int { states.count }
    func state(ofVCPU index: Int) -> VCPUState { states[index] }
    mutating func load(_ state: VCPUState, intoVCPU index: Int) { states[index] = state }

    private func offset(_ address: UInt64, _ space: DebugAddressSpace) -> Int? {
        let offset = address &- (space == .physical ? Self.start : Self.linearStart)
        return offset < UInt64(memory.count) ? Int(offset) : nil
    }
    func physicalAddress(of linear: UInt64, vcpu: Int) -> UInt64? {
        offset(linear, .linear(vcpu: vcpu)).map { Self.start + UInt64($0) }
    }
    func readMemory(_ address: UInt64, count: Int, in space: DebugAddressSpace) -> [UInt8] {
        guard let offset = offset(address, space) else { return [] }
        return Array(memory[offset...].prefix(count))
    }
    mutating func writeMemory(_ bytes: [UInt8], at address: UInt64, in space: DebugAddressSpace) -> Bool {
        guard let offset = offset(address, space), offset + bytes.count <= memory.count else { return false }
        memory.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        return true
    }
    mutating func insert(_ point: DebugPoint) -> Bool {
        guard !point.kind.isWatchpoint || point.length <= longestWatch else { return false }
        points.insert(point)
        return true
    }
    mutating func remove(_ point: DebugPoint) { points.remove(point) }
}

/// gdb's end of a session: sends packets, and takes answers apart.
struct FakeDebugger {
    var session = GDBSession()
    var target = FakeTarget()

    static func packet(_ text: String) -> [UInt8] { PacketWriter.frame(text.utf8) }

    /// The actions, and the packets that came back; `+` and `-` as texts of their own.
    mutating func send(bytes: [UInt8]) -> (actions: [DebugAction], answers: [String]) {
        session.feed(bytes)
        var actions: [DebugAction] = []
        while let action = session.next(&target) { actions.append(action) }
        return (actions, Self.answers(session.takeOutput()))
    }

    /// The one answer to a packet that acts on nothing.
    mutating func ask(_ text: String) -> String {
        let (actions, answers) = send(bytes: Self.packet(text))
        guard actions.isEmpty, answers.count == 2, answers[0] == "+" else { return "\(actions) \(answers)" }
        return answers[1]
    }

    /// What a packet that lets the machine go, or ends it, wants.
    mutating func act(_ text: String) -> [DebugAction] { send(bytes: Self.packet(text)).actions }

    static func answers(_ output: [UInt8]) -> [String] {
        var reader = PacketReader()
        return output.compactMap { byte in
            switch reader.take(byte) {
            case .packet(let payload): String(decoding: payload, as: UTF8.self)
            case .acknowledged: "+"
            case .repeatLast: "-"
            case .broken: "broken"
            case .interrupt, nil: nil
            }
        }
    }
}
