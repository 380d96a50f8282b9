internal import KVMEngine
internal import LinuxHost
internal import MachineSpec

/// What the host's KVM turned out to be.
enum HostAcceleration: Equatable {
    /// There is no /dev/kvm, or nobody asked for it.
    case absent
    /// It is no KVM that we can use.
    case unusable(reason: String)
    /// A small test guest did not run.
    case failing(reason: String)
    case measured(instructionsPerSecond: Double, isFast: Bool)

    /// Looks at an open /dev/kvm: 10 ms of a small loop, twice if the first one fails.
    static func measure(_ system: KVMSystem) -> HostAcceleration {
        var reason = ""
        for _ in 0..<2 {
            do throws(HostError) {
                let probe = try KVMProbe.measure(system)
                // The loop has two instructions.
                return .measured(
                    instructionsPerSecond: probe.iterationsPerSecond * 2, isFast: probe.isFast)
            } catch {
                reason = error.description
            }
        }
        return .failing(reason: reason)
    }
}

/// Which engine a machine starts on, and what its owner should know about that. Pure.
struct AcceleratorChoice: Equatable {
    var usesKVM: Bool
    var notice: String?

    /// `--accel soft` never looks at the host, `auto` takes a KVM that is fast, `kvm` takes any.
    static func choose(_ wish: Accelerator, host: HostAcceleration) throws(BoardError) -> AcceleratorChoice {
        switch (wish, host) {
        case (.soft, _), (.auto, .absent): return AcceleratorChoice(usesKVM: false)
        case (.kvm, .absent):
            throw BoardError("--accel kvm needs /dev/kvm, which was not passed: use --accel soft.")
        case (.auto, .unusable(let reason)), (.auto, .failing(let reason)):
            return AcceleratorChoice(
                usesKVM: false, notice: "KVM cannot be used (\(reason)); using the software CPU.")
        case (.kvm, .unusable(let reason)):
            throw BoardError("--accel kvm cannot be used: \(reason). Use --accel soft.")
        case (.kvm, .failing(let reason)):
            return AcceleratorChoice(
                usesKVM: true, notice: "KVM on this host failed a test (\(reason)); --accel soft is safer.")
        case (_, .measured(_, isFast: true)): return AcceleratorChoice(usesKVM: true)
        case (.auto, .measured(let speed, isFast: false)):
            return AcceleratorChoice(
                usesKVM: false, notice: "\(emulates(speed)); using the software CPU.")
        case (.kvm, .measured(let speed, isFast: false)):
            return AcceleratorChoice(usesKVM: true, notice: "\(emulates(speed)); --accel soft is faster.")
        }
    }

    private static func emulates(_ instructionsPerSecond: Double) -> String {
        let tenths = Int(min(max(instructionsPerSecond, 0), 1e12) / 1e5)
        return "KVM on this host only emulates (\(tenths / 10).\(tenths % 10) M instructions/s)"
    }
}
