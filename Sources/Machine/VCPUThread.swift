internal import LinuxHost
internal import Synchronization
internal import VCPUEngine
internal import X86Architecture

/// The thread of one vCPU: runs it, and stops where the machine wants to pause, reset or end.
///
/// Confinement: any thread, but the vCPU's `load` and `state`, and `restart` and `replace`, only while it is
/// held.
final class VCPUThread: Sendable {
    enum Event: Sendable, Equatable {
        case shutdown
        /// The engine that `vcpu` names cannot execute the next instruction; another may.
        case cannotExecute(reason: String, vcpu: ObjectIdentifier)
        case cannotGoOn(String)
        /// For the debugger. The vCPU may be released any time.
        case debug(DebugStop)
    }
    private enum Wish: Sendable { case run, hold, end }
    private struct Control {
        var wish = Wish.hold
        var isHeld = false
        /// Why the vCPU must not run before it has another state; nil: it may.
        var ending: Event?
    }

    private let index: Int
    private let current: Mutex<any VCPU>
    private let control = Mutex(Control())
    private let resumed = Parker()
    private let held = Parker()
    private let report: @Sendable (Int, Event) -> Void
    private let thread = Mutex<HostThread?>(nil)

    /// Starts the thread, held.
    init(_ vcpu: any VCPU, report: @escaping @Sendable (Int, Event) -> Void) throws(HostError) {
        index = vcpu.index
        current = Mutex(vcpu)
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

    /// What runs on this thread now.
    var vcpu: any VCPU { current.withLock { $0 } }

    private func runOnce() {
        let vcpu = vcpu
        switch vcpu.run() {
        case .requested: return
        case .shutdown: stop(.shutdown)
        case .cannotExecute(let reason):
            stop(.cannotExecute(reason: reason, vcpu: ObjectIdentifier(vcpu)))
        case .failed(let reason): stop(.cannotGoOn(reason))
        case .debug(let stop):
            control.withLock { if $0.wish == .run { $0.wish = .hold } }
            report(index, .debug(stop))
        }
    }

    /// The vCPU has nothing to do until the machine decides.
    private func stop(_ event: Event) {
        control.withLock { control in
            if control.wish == .run { control.wish = .hold }
            control.ending = event
        }
        report(index, event)
    }

    /// Lets the vCPU run, unless it stopped for good and has no other state since.
    func release() {
        control.withLock { control in
            guard control.ending == nil else { return }
            control.wish = .run
            control.isHeld = false
        }
        resumed.unpark()
    }

    /// Gives the vCPU a state from which it can run, whatever stopped it. While it is held.
    func restart(_ state: VCPUState) {
        vcpu.load(state)
        control.withLock { $0.ending = nil }
    }

    /// Another engine's vCPU takes the place of this one. While it is held. What the old one could not
    /// execute is no obstacle any more; a shutdown still is.
    func replace(with vcpu: any VCPU) {
        current.withLock { $0 = vcpu }
        control.withLock { control in
            if case .cannotExecute = control.ending { control.ending = nil }
        }
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
