public import DeviceModel
public import GuestMemory
internal import PCIBus
internal import Glibc

/// Feature bits that belong to every device (VIRTIO 1.3 §6).
public enum VirtioFeature {
    public static let indirectDescriptors: UInt64 = 1 << 28
    public static let eventIndex: UInt64 = 1 << 29
    public static let version1: UInt64 = 1 << 32
    public static let ringReset: UInt64 = 1 << 40
    /// What the transport offers for every device.
    static let transport = indirectDescriptors | eventIndex | version1 | ringReset
}

/// What a device has to work with: its queues and the way to its driver.
public final class VirtioLink: Sendable {
    public let memory: GuestMemory
    public let signals: VirtioSignals
    public let queues: [VirtioQueue]
    let retry: QueueRetry

    /// `queueSizes` are the largest sizes, powers of two up to 32768. One MSI-X vector per queue, and one for
    /// configuration changes.
    public init(_ context: DeviceContext, queueSizes: [UInt16]) {
        precondition(queueSizes.count <= 1024, "the notification region has room for 1024 queues")
        memory = context.memory
        let signals = VirtioSignals(
            interrupts: PCIInterrupts(vectors: queueSizes.count + 1, target: context.msi))
        self.signals = signals
        let retry = QueueRetry(context.clock)
        self.retry = retry
        queues = queueSizes.enumerated().map { index, size in
            VirtioQueue(
                index: index, maximumSize: size, memory: context.memory, signals: signals, retry: retry)
        }
    }
}

/// A virtio device behind some transport. `Device.reset` is the virtio reset: the transport has stopped the
/// queues and settled them before, and clears them afterwards. `Device.save` holds the device's own fields
/// only; queue positions are the transport's.
///
/// Confinement: any thread. The transport may hold its own lock during `activate`, `reset`, `writeConfig` and
/// `settle`, so a device calls nothing of the transport; `link` is always safe.
public protocol VirtioDevice: Device {
    var link: VirtioLink { get }
    /// §5: 2 for a block device.
    var deviceID: UInt16 { get }
    /// PCI class, subclass and interface, for systems that show or bind by class.
    var classCode: UInt32 { get }
    /// Device-specific bits 0 to 23 and 50 up.
    var features: UInt64 { get }
    /// The device configuration as the driver sees it now, at most 4096 bytes.
    var config: [UInt8] { get }
    /// The driver wrote `bytes` at `offset` of the configuration; both may be anything.
    func writeConfig(offset: Int, bytes: [UInt8])
    /// The driver set DRIVER_OK with these features; also after a restore.
    func activate(features: UInt64)
    /// Queue `queue` may have new chains. Called for every queue after `activate` and after `resume`.
    func notify(queue: Int)
    /// Returns when no chain of `queue` is in flight; the queue is stopped, so none is taken any more.
    func settle(_ queue: VirtioQueue)
}

extension VirtioDevice {
    public func writeConfig(offset: Int, bytes: [UInt8]) {}
    public func activate(features: UInt64) {}

    public func settle(_ queue: VirtioQueue) { waitUntilSettled(queue) }

    /// Waits for the threads that are between pop and complete; `release` gives back what the device holds,
    /// as often as one of those threads may have left it something.
    public func waitUntilSettled(_ queue: VirtioQueue, _ release: () -> Void = {}) {
        while queue.inFlight > 0 {
            release()
            sched_yield()
        }
    }

    /// The machine stops: what is in flight is finished, so that no request needs saving.
    public func pause() {
        for queue in link.queues {
            queue.stop()
            settle(queue)
        }
    }

    public func resume() {
        for queue in link.queues { queue.start() }
        for queue in link.queues where queue.isEnabled { notify(queue: queue.index) }
    }
}
