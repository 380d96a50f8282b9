internal import ChipsetDevices
internal import DeviceModel
internal import DisplayDevices
internal import LinuxHost
internal import MachineSpec
internal import ScreenSurface
internal import Synchronization
internal import Virtio
internal import VirtioDevices

/// Where what viewers do goes: to the devices whose drivers listen, else to the keyboard controller.
///
/// Confinement: the screen's thread, and any thread for `takesPositions`.
final class InputRouter: Sendable {
    private let keyTargets: [any KeyTarget]
    private let pointerTargets: [any PointerTarget]
    /// Nil on a board without one.
    private let controller: I8042?
    /// Codes of keys that went down at the controller: they go up there, whoever listens by then.
    private let held = Mutex<Set<UInt8>>([])

    init(_ keyTargets: [any KeyTarget], _ pointerTargets: [any PointerTarget], _ controller: I8042?) {
        self.keyTargets = keyTargets
        self.pointerTargets = pointerTargets
        self.controller = controller
    }

    /// Whether the guest hears where the pointer is.
    var takesPositions: Bool { pointerTargets.contains(where: \.isListening) }

    func key(_ code: UInt8, isDown: Bool) {
        let wasHeld = held.withLock { $0.remove(code) != nil }
        if isDown || !wasHeld, let target = keyTargets.first(where: \.isListening) {
            target.key(code: code, isDown: isDown)
        } else {
            if isDown { held.withLock { _ = $0.insert(code) } }
            controller?.key(KeyCode(code), isDown: isDown)
        }
    }

    func move(_ movement: ScreenMovement) {
        if let place = movement.place, let target = pointerTargets.first(where: \.isListening) {
            target.point(x: place.x, y: place.y, buttons: movement.buttons, wheel: movement.wheel)
        } else {
            controller?.move(
                PointerMovement(
                    right: movement.right, down: movement.down, wheel: movement.wheel,
                    buttons: movement.buttons))
        }
    }
}

extension BoardAssembly {
    /// With firmware a VGA; a virtio display beside it in one function, or by itself.
    mutating func addScreen() throws(BoardError) {
        let vga = try addVGA()
        guard spec.video == .virtio else { return }
        let display = VirtioGPU(context)
        // It has the screen while the guest has set a picture there.
        screenSources.insert(display, at: 0)
        if let vga {
            let companion = VirtioCompanion(
                classCode: VGA.classCode, bars: VGA.bars, rom: vga.rom, handler: vga.adapter.handler)
            let function = VirtioPCI(display, beside: companion)
            add(function, function.function, slot: Board.screenSlot)
        } else if isPC {
            let function = VirtioPCI(display)
            add(function, function.function, slot: Board.screenSlot)
        } else {
            try add(display)
        }
    }

    /// Its own function, unless a virtio display has one for both. Nil on a board without firmware.
    private mutating func addVGA() throws(BoardError) -> (adapter: VGA, rom: [UInt8])? {
        guard let firmware = spec.firmware else { return nil }
        let file = firmware.videoROM.map { Descriptor(adopting: resources[$0]) }
        let rom = try Board.contents(file, "video BIOS") ?? []
        guard rom.count <= Self.largestVideoROM else {
            throw BoardError("The video BIOS is too large: it has \(rom.count) bytes.")
        }
        do throws(HostError) {
            let vga = try VGA(context, rom: rom, hasFunction: spec.video == .vga)
            platform.mmio.map(vga, at: VGA.windowStart, size: VGA.windowSize)
            if let function = vga.function {
                platform.ports.attach(vga)
                add(vga, function, slot: Board.screenSlot)
            } else {
                add(vga)
            }
            screenSources.append(vga)
            return (vga, rom)
        } catch {
            throw BoardError("The screen cannot have its memory: \(error).")
        }
    }

    /// What fits below 1 MiB with room for others.
    private static let largestVideoROM = 0x1_0000

    /// A keyboard and a tablet: functions beside the screen's on a PC.
    mutating func addInput() throws(BoardError) {
        guard spec.input == .virtio, spec.hasScreen else { return }
        let keyboard = VirtioInput(context, .keyboard), tablet = VirtioInput(context, .tablet)
        for (number, device) in [(1, keyboard), (2, tablet)] {
            guard isPC else {
                try add(device)
                continue
            }
            let function = VirtioPCI(device)
            add(function, function.function, slot: Board.screenSlot, number: number)
        }
        keyTargets.append(keyboard)
        // Before that of USB.
        pointerTargets.insert(tablet, at: 0)
    }

    /// After all devices: shows the picture to whoever looks, and lets them press keys and move the pointer.
    mutating func connectScreen() throws(BoardError) {
        guard let display = spec.display else { return }
        let router = InputRouter(keyTargets, pointerTargets, built(I8042.self))
        do throws(HostError) {
            let output = try ScreenOutput(
                surface: Descriptor(adopting: resources[display.surface]),
                link: Descriptor(adopting: resources[display.link]),
                takesPositions: { router.takesPositions }
            ) { request in
                switch request {
                // The screen's own.
                case .refresh, .resize: break
                case .key(let code, let isDown): router.key(code, isDown: isDown)
                case .move(let movement): router.move(movement)
                }
            }
            output.show(screenSources)
            add(output)
        } catch {
            throw BoardError("The screen cannot be shown: \(error).")
        }
    }
}
