import DeviceModel
import Synchronization

/// A device timer whose handler is connected after the device is built, because the handler needs the device.
/// Any thread.
final class LateTimer: Sendable {
    private final class Handler: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    private final class Relay: Sendable {
        /// A class, because a function that lies in a `Mutex` by itself is wrapped once more by each access,
        /// until calling it overflows the stack.
        let handler = AtomicLazyReference<Handler>()
        /// The deadline that the timer was last given; `disarmed` when none or when it fired. It spares the
        /// clock a call for every access that changes nothing. A stale value costs one needless firing,
        /// which every handler takes as a look at the time.
        let armed = Atomic<UInt64>(LateTimer.disarmed)

        func fire() {
            armed.store(LateTimer.disarmed, ordering: .sequentiallyConsistent)
            handler.load()?.run()
        }
    }
    private static let disarmed = UInt64.max
    private let relay = Relay()
    private let timer: any DeviceTimer

    init(_ clock: any MachineClock) {
        timer = clock.makeTimer { [relay] in relay.fire() }
    }

    /// The handler must hold its device weakly: the device owns this timer.
    func connect(_ handler: @escaping @Sendable () -> Void) { _ = relay.handler.storeIfNil(Handler(handler)) }

    /// Arms at `deadline`, or disarms when it is nil. Called under the device's lock.
    func arm(at deadline: UInt64?) {
        let wanted = deadline ?? Self.disarmed
        guard relay.armed.exchange(wanted, ordering: .sequentiallyConsistent) != wanted else { return }
        if let deadline { timer.arm(at: deadline) } else { timer.disarm() }
    }
}
