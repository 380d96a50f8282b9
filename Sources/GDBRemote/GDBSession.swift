public import X86Architecture

/// One connection of gdb's remote protocol (GDB manual, appendix E), as a state machine: bytes in, bytes and
/// actions out. It keeps no more than one packet of what comes in.
///
/// The machine stands still when a session begins, and in all-stop mode either all of it stands still or gdb
/// waits. gdb's thread n is vCPU n - 1.
public struct GDBSession: Sendable {
    private var reader = PacketReader()
    private var input: ArraySlice<UInt8> = []
    private var output: [UInt8] = []
    private var lastFrame: [UInt8] = []
    /// `+` and `-` are sent, and wanted.
    private var acknowledges = true
    private var isRunning = false
    /// The answer to `?`.
    private var lastStop: [UInt8]
    /// vCPU of `g`, `m` and the like, and of `c` and `s` without vCont.
    var selected = 0
    var resumed: Int?
    /// Addresses are physical (QEMU's PhyMemMode).
    var isPhysical = false
    /// gdb understands reasons of kinds of breakpoints.
    var knowsSoftwareBreakpoints = false
    var knowsHardwareBreakpoints = false

    /// - Parameter vcpu: the one that gdb looks at first.
    public init(vcpu: Int = 0) {
        selected = vcpu
        lastStop = []
        lastStop = stopReply(.interrupted, vcpu: vcpu)
    }

    // MARK: Input

    /// gdb waits for each answer before it asks again. Who asks for more than this without taking any of it
    /// is not heard.
    static let mostOutput = 256 << 10

    /// Adds what gdb sent; then `next` until it returns nil.
    public mutating func feed(_ bytes: some Sequence<UInt8>) { input += bytes }

    /// Works on what was fed, up to the next thing that somebody has to do.
    public mutating func next(_ target: inout some DebugTarget) -> DebugAction? {
        while let byte = input.first {
            input = input.dropFirst()
            guard output.count < Self.mostOutput else { break }
            guard let item = reader.take(byte) else { continue }
            if let action = handle(item, &target) { return action }
        }
        // Nothing of an old buffer stays.
        input = []
        return nil
    }

    private mutating func handle(_ item: PacketReader.Item, _ target: inout some DebugTarget) -> DebugAction?
    {
        switch item {
        case .acknowledged: return nil
        case .interrupt: return isRunning ? .interrupt : nil
        case .repeatLast:
            if acknowledges { output += lastFrame }
            return nil
        case .broken:
            if acknowledges { output.append(UInt8(ascii: "-")) }
            return nil
        case .packet(let payload):
            if acknowledges { output.append(UInt8(ascii: "+")) }
            return isRunning ? handleWhileRunning(payload) : handle(payload[...], &target)
        }
    }

    /// gdb waits for the machine to stop: all that it may still want is to leave.
    private func handleWhileRunning(_ payload: [UInt8]) -> DebugAction? {
        switch payload.first {
        case UInt8(ascii: "k"): .kill
        case UInt8(ascii: "D"): .detach
        default: nil
        }
    }

    // MARK: Output

    /// What is to be sent; empty afterwards.
    public mutating func takeOutput() -> [UInt8] {
        defer { output = [] }
        return output
    }

    mutating func reply(_ payload: some Sequence<UInt8>) {
        lastFrame = PacketWriter.frame(payload)
        output += lastFrame
    }
    mutating func reply(_ text: String) { reply(text.utf8) }

    /// Numbers of errno; gdb shows them.
    enum Refusal: UInt8 { case badAddress = 14, invalid = 22 }
    mutating func refuse(_ refusal: Refusal) { reply([UInt8(ascii: "E")] + Hex.text(refusal.rawValue)) }

    mutating func stopAcknowledging() { acknowledges = false }

    // MARK: The machine's life

    mutating func markRunning() { isRunning = true }

    /// The machine stands still because of `report` on a vCPU.
    public mutating func stopped(_ report: DebugReport, vcpu: Int) {
        guard isRunning else { return }
        isRunning = false
        selected = vcpu
        resumed = vcpu
        lastStop = stopReply(report, vcpu: vcpu)
        reply(lastStop)
    }

    /// The machine is over.
    public mutating func ended(status: UInt8) {
        if isRunning { reply([UInt8(ascii: "W")] + Hex.text(status)) }
        isRunning = false
    }

    mutating func replyLastStop() { reply(lastStop) }

    /// SIGINT is 2, SIGTRAP 5 in gdb's numbers.
    private func stopReply(_ report: DebugReport, vcpu: Int) -> [UInt8] {
        var text = report == .interrupted ? "T02" : "T05"
        switch report {
        case .breakpoint(isHardware: false) where knowsSoftwareBreakpoints: text += "swbreak:;"
        case .breakpoint(isHardware: true) where knowsHardwareBreakpoints: text += "hwbreak:;"
        case .watchpoint(let kind, let address):
            let name = kind == .write ? "watch" : kind == .read ? "rwatch" : "awatch"
            text += "\(name):\(String(address, radix: 16));"
        default: break
        }
        text += "thread:\(String(vcpu + 1, radix: 16));"
        return Array(text.utf8)
    }
}
