public import BlockStorage
public import DeviceModel
public import PCIBus
internal import SCSICommands

/// Something that is plugged into a controller's socket when it is built.
public enum USBAttachment: Sendable {
    /// A pointer that knows places.
    case tablet
    case keyboard
    /// A stick. `serial` has at most 20 ASCII characters, and is no other's in the machine.
    case storage(any BlockBackend, serial: String)
}

/// A USB 3 controller (xHCI 1.1) with eight sockets: SuperSpeed ports are 1 to 8, USB 2 ports 9 to 16. BAR 0
/// is its registers. Streams and isochronous transfers are not offered.
///
/// Confinement: any thread.
public final class XHCIController: Device {
    public static let kind = "xhci"
    public static let sockets = XHCICapability.sockets

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
        var registers: Registers
    }

    private let core: XHCICore
    private let devices: [USBDevice?]
    public let function: PCIFunction

    /// `attachments` are in the sockets from the first one on, at most eight.
    public init(_ context: DeviceContext, _ attachments: [USBAttachment]) {
        precondition(attachments.count <= Self.sockets, "eight sockets")
        var devices = [USBDevice?](repeating: nil, count: XHCICapability.ports)
        var disks = [SCSIDisk?](repeating: nil, count: XHCICapability.ports)
        for (socket, attachment) in attachments.enumerated() {
            switch attachment {
            case .tablet: devices[XHCICapability.sockets + socket] = .tablet(HIDTablet())
            case .keyboard: devices[XHCICapability.sockets + socket] = .keyboard(HIDKeyboard())
            case .storage(let backend, let serial):
                devices[socket] = .storage(USBStorage(serial: Self.digits(serial)))
                disks[socket] = SCSIDisk(backend, serial: serial)
            }
        }
        self.devices = devices
        let interrupts = PCIInterrupts(vectors: XHCICapability.interrupters, target: context.msi)
        let core = XHCICore(context, devices, disks, interrupts)
        self.core = core
        function = PCIFunction(
            PCIFunctionLayout(
                // There is no number of our own; systems know the kind of device by its class.
                identity: PCIIdentity(
                    vendor: 0x1B36, device: 0x00F6, classCode: 0x0C_03_30, revision: 1,
                    subsystemVendor: 0x1AF4, subsystem: 0x1100),
                bars: [BARLayout(.memory64, size: XHCIRegister.size)],
                interruptPin: 1,
                msix: MSIXPlacement(
                    bar: 0, table: XHCIRegister.msixTable, pending: XHCIRegister.msixPending),
                // SBRN and FLADJ, §5.2.3 and §5.2.4: USB 3.0, frames of the usual length.
                registers: [PCIRegister(offset: 0x60, value: [0x30, 0x20], writable: [0, 0x3F])]),
            interrupts: interrupts, handler: core)
    }

    /// A serial number of hexadecimal digits, as Bulk-Only Transport 1.0 §4.1.1 wants it.
    private static func digits(_ serial: String) -> String {
        let all = Array("0123456789ABCDEF")
        return String(serial.utf8.flatMap { [all[Int($0 >> 4)], all[Int($0 & 15)]] })
    }

    // MARK: What a person does

    /// The tablet, if it is plugged in.
    public var tablet: (any PointerTarget)? { core.hasTablet ? USBTablet(core) : nil }
    /// The keyboard, if it is plugged in.
    public var keyboard: (any KeyTarget)? { core.hasKeyboard ? USBKeyboard(core) : nil }

    /// The pointer is at a place, each from 0 to 32,767 of the screen; `wheel` has steps towards the user.
    /// False when there is no tablet that a guest listens to.
    func point(x: UInt16, y: UInt16, wheel: Int32, buttons: UInt8) -> Bool {
        core.point(x: x, y: y, wheel: wheel, buttons: buttons)
    }

    /// False when there is no keyboard that a guest listens to.
    func key(_ code: UInt8, isDown: Bool) -> Bool { core.key(code, isDown: isDown) }

    // MARK: Lifecycle

    public func reset() {
        core.reset()
        function.reset()
    }

    public func pause() { core.pause() }
    public func resume() { core.resume() }
    public func save() -> Saved { Saved(function: function.save(), registers: core.registers) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.registers.isPossible(with: devices) else {
            throw RestoreError(Self.kind, "a register, a ring or a device")
        }
        core.restore(saved.registers)
        try function.restore(saved.function)
    }
}

extension XHCICore {
    func point(x: UInt16, y: UInt16, wheel: Int32, buttons: UInt8) -> Bool {
        point(HIDTablet.Report(x: x, y: y, wheel: Int8(clamping: 0 - Int(wheel)), buttons: buttons))
    }
}

/// A controller's tablet as people use it.
private final class USBTablet: PointerTarget {
    private let core: XHCICore
    init(_ core: XHCICore) { self.core = core }
    var isListening: Bool { core.isListeningToTablet }

    func point(x: UInt16, y: UInt16, buttons: UInt8, wheel: Int32) {
        // Half as many places as parts.
        _ = core.point(x: x >> 1, y: y >> 1, wheel: wheel, buttons: buttons)
    }
}

/// A controller's keyboard as people use it.
private final class USBKeyboard: KeyTarget {
    private let core: XHCICore
    init(_ core: XHCICore) { self.core = core }
    var isListening: Bool { core.isListeningToKeyboard }
    func key(code: UInt8, isDown: Bool) { _ = core.key(code, isDown: isDown) }
}
