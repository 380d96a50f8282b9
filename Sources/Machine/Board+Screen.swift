internal import ChipsetDevices
internal import DisplayDevices
internal import LinuxHost
internal import MachineSpec
internal import ScreenSurface
internal import Synchronization
internal import USBDevices
internal import VirtioDevices

extension BoardAssembly {
    /// Shows the picture of `source` to whoever looks, and lets them press keys and move the pointer.
    mutating func connectScreen(_ source: any ScreenSource) throws(HostError) {
        guard let display = spec.display else { return }
        let input = ScreenInput(built(I8042.self), usb: built(XHCIController.self))
        let output = try ScreenOutput(
            surface: Descriptor(adopting: resources[display.surface]),
            link: Descriptor(adopting: resources[display.link])
        ) { input.take($0) }
        input.start(output)
        output.show(source)
        add(output, input)
    }

    /// A keyboard and a tablet for guests that know virtio; others have those of USB and of the keyboard
    /// controller.
    mutating func addVirtioInput() throws(BoardError) {
        guard let input = screenInput else { return }
        let keyboard = VirtioInput(context, .keyboard)
        let tablet = VirtioInput(context, .tablet) { [weak input] in
            input?.tablet(.virtio, isListening: $0)
        }
        try add(keyboard)
        try add(tablet)
        input.connect(keyboard: keyboard, tablet: tablet)
    }
}

/// Where keys and movement of people at the screen go: to the devices that a driver of the guest listens to.
///
/// Confinement: any thread.
final class ScreenInput: Sendable {
    /// Which of the tablets.
    enum Tablet: Hashable { case virtio, usb }

    private struct Devices {
        var keyboard: VirtioInput?
        var tablet: VirtioInput?
        /// Tablets that a driver listens to.
        var listening: Set<Tablet> = []
        weak var output: ScreenOutput?
        /// Codes of keys that went down at the keyboard controller: they go up there.
        var heldAtController: Set<UInt8> = []
    }
    private let controller: I8042?
    private let usb: XHCIController?
    private let devices = Mutex(Devices())

    init(_ controller: I8042?, usb: XHCIController?) {
        self.controller = controller
        self.usb = usb
    }

    /// From now on viewers are told whether the guest wants to know where the pointer is.
    func start(_ output: ScreenOutput) {
        devices.withLock { $0.output = output }
        usb?.onListening { [weak self] in self?.tablet(.usb, isListening: $0) }
    }

    func connect(keyboard: VirtioInput, tablet: VirtioInput) {
        devices.withLock { devices in
            devices.keyboard = keyboard
            devices.tablet = tablet
        }
    }

    /// A driver has begun or ended to take what a tablet says.
    func tablet(_ tablet: Tablet, isListening: Bool) {
        devices.withLock { devices in
            if isListening { devices.listening.insert(tablet) } else { devices.listening.remove(tablet) }
            devices.output?.setPointer(isAbsolute: !devices.listening.isEmpty)
        }
    }

    func take(_ request: ScreenRequest) {
        switch request {
        case .refresh: break
        case .key(let code, let isDown): key(code, isDown: isDown)
        case .move(let right, let down, let wheel, let buttons, let position):
            if let position, point(position, wheel, buttons) { return }
            controller?.move(PointerMovement(right: right, down: down, wheel: wheel, buttons: buttons))
        }
    }

    /// Whether there is a tablet that a driver listens to.
    private func point(_ position: ScreenPosition, _ wheel: Int32, _ buttons: UInt8) -> Bool {
        if let tablet = devices.withLock({ $0.tablet }), tablet.isListening {
            tablet.point(x: position.x, y: position.y, wheel: wheel, buttons: buttons)
            return true
        }
        return usb?.point(x: position.x, y: position.y, wheel: wheel, buttons: buttons) ?? false
    }

    private func key(_ code: UInt8, isDown: Bool) {
        let keyboard: VirtioInput? = devices.withLock { devices in
            if !isDown, devices.heldAtController.remove(code) != nil { return nil }
            if let keyboard = devices.keyboard, keyboard.isListening { return keyboard }
            if isDown { devices.heldAtController.insert(code) }
            return nil
        }
        if let keyboard {
            keyboard.key(code, isDown: isDown)
        } else {
            controller?.key(KeyCode(code), isDown: isDown)
        }
    }
}
