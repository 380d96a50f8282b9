public import DeviceModel
import Synchronization

/// Carries interrupt messages between local APICs, the I/O APIC and message-signalled interrupts.
///
/// Confinement: any thread, after `connect`. Delivery allocates nothing and holds no lock of the bus or of a
/// sender. The local APICs belong to the machine and hold the bus; the bus holds them weakly.
public final class APICBus: MSITarget {
    private struct Entry {
        weak let apic: LocalAPIC?
        init(apic: LocalAPIC) { self.apic = apic }
    }
    private final class Table: Sendable {
        let entries: [Entry]
        init(_ entries: [Entry]) { self.entries = entries }
    }
    /// Identifiers 0...254; 255 is the broadcast (SDM vol. 3 §11.6.2.1).
    public static let largestCount = 255
    private let table = AtomicLazyReference<Table>()
    private let counter = Atomic<UInt64>(0)

    public init() {}

    /// Takes the local APICs, in the order of their identifiers 0, 1, 2...; once, before any vCPU runs.
    /// Messages before that are lost.
    public func connect(_ apics: [LocalAPIC]) {
        precondition(apics.count <= Self.largestCount, "more local APICs than 8-bit identifiers")
        precondition(
            apics.enumerated().allSatisfy { $0.offset == Int($0.element.id) }, "identifier is not index")
        _ = table.storeIfNil(Table(apics.map { Entry(apic: $0) }))
    }

    /// Messages delivered since the machine was built.
    public var deliveredCount: UInt64 { counter.load(ordering: .relaxed) }

    /// An MSI store (SDM vol. 3 §11.11). Stores outside FEExxxxxh are no interrupts and are ignored.
    ///
    ///     address  31..20 FEEh | 19..12 destination | 3 redirection hint | 2 logical
    ///     data     15 level | 14 assert | 10..8 delivery mode | 7..0 vector
    public func deliver(_ message: MSIMessage) {
        guard message.address >> 20 == 0xFEE else { return }
        let destination = UInt32(truncatingIfNeeded: message.address >> 12) & 0xFF
        let isLogical = message.address & 4 != 0
        let isLevel = message.data & 0x8000 != 0
        // A level message with the assert bit clear ends nothing that we keep.
        if isLevel && message.data & 0x4000 == 0 { return }
        var mode = DeliveryMode(bits: message.data >> 8)
        let hint = message.address & 8 != 0
        if hint && isLogical && mode == .fixed { mode = .lowestPriority }
        send(
            InterruptMessage(
                vector: UInt8(truncatingIfNeeded: message.data), mode: mode, isLevel: isLevel,
                destination: destination, isLogical: isLogical, isBroadcast: destination == 0xFF && !isLogical
            ))
    }

    /// Sends `message`; `source` is the index of the local APIC that sends it, for the shorthands.
    func send(_ message: InterruptMessage, from source: Int? = nil) {
        guard let table = table.load() else { return }
        counter.add(1, ordering: .relaxed)
        if message.mode == .lowestPriority {
            deliverToLowestPriority(message, table, source)
            return
        }
        if message.shorthand == .none, !message.isLogical, !message.isBroadcast {
            let index = Int(message.destination)
            guard index < table.entries.count else { return }
            table.entries[index].apic?.receive(message.mode, message.vector, isLevel: message.isLevel)
            return
        }
        for index in table.entries.indices where selects(message, index, table, source) {
            table.entries[index].apic?.receive(message.mode, message.vector, isLevel: message.isLevel)
        }
    }

    private func selects(_ message: InterruptMessage, _ index: Int, _ table: Table, _ source: Int?) -> Bool {
        switch message.shorthand {
        case .itself: return index == source
        case .all: return true
        case .allButSelf: return index != source
        case .none: break
        }
        if message.isBroadcast { return true }
        if !message.isLogical { return index == Int(message.destination) }
        guard let address = table.entries[index].apic?.address else { return false }
        return address.isEnabled && address.matches(logical: message.destination)
    }

    /// Among the enabled processors of the set, the one with the lowest processor priority (SDM vol. 3
    /// §11.6.2.4). Among equals the vector decides: that spreads devices and keeps each where it was.
    private func deliverToLowestPriority(_ message: InterruptMessage, _ table: Table, _ source: Int?) {
        let count = table.entries.count
        guard count > 0 else { return }
        let start = Int(message.vector) % count
        var best: (index: Int, priority: UInt8)?
        for step in 0..<count {
            let index = (start + step) % count
            guard selects(message, index, table, source) else { continue }
            guard let apic = table.entries[index].apic, apic.address.isSoftwareEnabled else { continue }
            let priority = apic.processorPriority
            if best == nil || priority < best!.priority { best = (index, priority) }
        }
        guard let best else { return }
        table.entries[best.index].apic?.receive(.fixed, message.vector, isLevel: message.isLevel)
    }
}
