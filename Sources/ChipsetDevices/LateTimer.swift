import DeviceModel
import Synchronization

/// A device timer whose handler is connected after the device is built, because the handler needs the device.
/// Any thread.
final class LateTimer: Sendable {
    private final class Relay: Sendable {
        let handler = Mutex<(@Sendable () -> Void)?>(nil)
    }
    private let relay = Relay()
    private let timer: any DeviceTimer

    init(_ clock: any MachineClock) {
        timer = clock.makeTimer { [relay] in relay.handler.withLock { $0 }?() }
    }

    /// The handler must hold its device weakly: the device owns this timer.
    func connect(_ handler: @escaping @Sendable () -> Void) { relay.handler.withLock { $0 = handler } }

    /// Arms at `deadline`, or disarms when it is nil.
    func arm(at deadline: UInt64?) {
        if let deadline { timer.arm(at: deadline) } else { timer.disarm() }
    }
}
