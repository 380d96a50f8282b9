internal import ChipsetDevices
internal import DisplayDevices
internal import LinuxHost
internal import MachineSpec
internal import ScreenSurface
internal import Synchronization
internal import VirtioDevices

extension BoardAssembly {
    /// Shows the picture of `source` to whoever looks, and lets them press keys and move the pointer.
    mutating func connectScreen(_ source: any ScreenSource) throws(HostError) {
        guard let display = spec.display else { return }
        let input = ScreenInput(built(I8042.self))
        let output = try ScreenOutput(
            surface: Descriptor(adopting: resources[display.surface]),
            link: Descriptor(adopting: resources[display.link])
        ) { input.take($0) }
        output.show(source)
        add(output, input)
    }

    /// A keyboard and a tablet for guests that know virtio; others have those of the keyboard controller.
    mutating func addVirtioInput() throws(BoardError) {
        guard let input = screenInput, let output = screenOutput else { return }
        let keyboard = VirtioInput(context, .keyboard)
        let tablet = VirtioInput(context, .tablet) { [weak output] in output?.setPointer(isAbsolute: $0) }
        try add(keyboard)
        try add(tablet)
        input.connect(keyboard: keyboard, tablet: tablet)
    }
}

/// Where keys and movement of people at the screen go: to the devices that a driver of the guest listens to.
///
/// Confinement: any thread.
final class ScreenInput: Sendable {
    private struct Devices {
        var keyboard: VirtioInput?
        var tablet: VirtioInput?
        /// Codes of keys that went down at the keyboard controller: they go up there.
        var heldAtController: Set<UInt8> = []
    }
    private let controller: I8042?
    private let devices = Mutex(Devices())

    init(_ controller: I8042?) { self.controller = controller }

    func connect(keyboard: VirtioInput, tablet: VirtioInput) {
        devices.withLock { devices in
            devices.keyboard = keyboard
            devices.tablet = tablet
        }
    }

    func take(_ request: ScreenRequest) {
        switch request {
        case .refresh: break
        case .key(let code, let isDown): key(code, isDown: isDown)
        case .move(let right, let down, let wheel, let buttons, let position):
            if let position, let tablet = devices.withLock({ $0.tablet }), tablet.isListening {
                tablet.point(x: position.x, y: position.y, wheel: wheel, buttons: buttons)
            } else {
                controller?.move(PointerMovement(right: right, down: down, wheel: wheel, buttons: buttons))
            }
        }
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
