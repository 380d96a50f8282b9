internal import LinuxHost
internal import Synchronization
internal import VCPUEngine
internal import X86Architecture

/// The thread of one vCPU: runs it, and stops where the machine wants to pause, reset or end.
///
/// Confinement: any thread, but `load` and `state` only between `hold` and `release`.
final class VCPUThread: Sendable {
    enum Event: Sendable, Equatable {
        case shutdown
        case cannotGoOn(String)
    }
    private enum Wish: Sendable { case run, hold, end }
    private struct Control {
        var wish = Wish.hold
        var isHeld = false
    }

    let vcpu: any VCPU
    private let control = Mutex(Control())
    private let resumed = Parker()
    private let held = Parker()
    private let report: @Sendable (Int, Event) -> Void
    private let thread = Mutex<HostThread?>(nil)

    /// Starts the thread, held.
    init(_ vcpu: any VCPU, report: @escaping @Sendable (Int, Event) -> Void) throws(HostError) {
        self.vcpu = vcpu
        self.report = report
        let started = try HostThread(name: "vcpu\(vcpu.index)", stackSize: 1 << 20) { self.main() }
        thread.withLock { $0 = started }
    }

    private func main() {
        while true {
            let wish = control.withLock { $0.wish }
            switch wish {
            case .end: return
            case .hold:
                control.withLock { $0.isHeld = true }
                held.unpark()
                resumed.park()
            case .run: runOnce()
            }
        }
    }

    private func runOnce() {
        let exit = vcpu.run()
        switch exit {
        case .requested: return
        case .shutdown: stop(.shutdown)
        case .cannotExecute(let reason), .failed(let reason): stop(.cannotGoOn(reason))
        }
    }

    /// The vCPU has nothing to do until the machine decides.
    private func stop(_ event: Event) {
        control.withLock { if $0.wish == .run { $0.wish = .hold } }
        report(vcpu.index, event)
    }

    /// Lets the vCPU run.
    func release() {
        control.withLock { control in
            control.wish = .run
            control.isHeld = false
        }
        resumed.unpark()
    }

    /// Asks the vCPU to stop; `waitUntilHeld` returns when it did.
    func hold() {
        control.withLock { if $0.wish == .run { $0.wish = .hold } }
        vcpu.requestExit()
    }

    func waitUntilHeld() {
        while !control.withLock({ $0.isHeld }) { held.park() }
    }

    /// Ends the thread.
    func end() {
        control.withLock { $0.wish = .end }
        vcpu.requestExit()
        resumed.unpark()
        thread.withLock { $0 }?.join()
    }
}
