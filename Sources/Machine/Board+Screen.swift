internal import ChipsetDevices
internal import DisplayDevices
internal import LinuxHost
internal import MachineSpec
internal import ScreenSurface

extension BoardAssembly {
    /// Shows the picture of `source` to whoever looks, and lets them press keys and move the mouse.
    mutating func connectScreen(_ source: any ScreenSource) throws(HostError) {
        guard let display = spec.display else { return }
        let controller = built(I8042.self)
        let output = try ScreenOutput(
            surface: Descriptor(adopting: resources[display.surface]),
            link: Descriptor(adopting: resources[display.link])
        ) { request in
            switch request {
            case .refresh: break
            case .key(let code, let isDown): controller?.key(KeyCode(code), isDown: isDown)
            case .move(let right, let down, let wheel, let buttons):
                controller?.move(
                    PointerMovement(right: right, down: down, wheel: wheel, buttons: buttons))
            }
        }
        output.show(source)
        add(output)
    }
}
