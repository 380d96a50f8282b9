internal import MachineSpec

/// Open Firmware paths of what may be booted, in the order in which the firmware shall try it.
struct BootOrder {
    private let spec: MachineSpec
    /// How many devices of each kind have got their place.
    private var virtioDisks = 0, nvmeDisks = 0
    private var drives: [DiskBus: Int] = [:]

    init(_ spec: MachineSpec) { self.spec = spec }

    /// One path a line, the first one first.
    var text: String {
        var places = self
        // On a controller disks come before CD drives.
        let disks = spec.disks.map { places.path(of: $0.bus) }
        let discs = spec.drives.map { places.path(of: $0.bus) }
        let paths: [BootDevice: [String]] = [
            .disk: disks, .cd: discs,
            .floppy: spec.floppies.indices.map { "/pci@i0cf8/isa@1f/fdc@03f0/floppy@\($0)" },
        ]
        // What nobody has named comes last.
        let named = spec.firmware?.bootOrder ?? []
        let order = named + BootDevice.allCases.filter { !named.contains($0) }
        return order.flatMap { paths[$0] ?? [] }.joined(separator: "\n")
    }

    /// The place of the next disk or CD drive on `bus`. Disks come before drives, as on the controllers.
    private mutating func path(of bus: DiskBus) -> String {
        func hexadecimal(_ number: Int) -> String { String(number, radix: 16) }
        switch bus {
        case .virtio:
            defer { virtioDisks += 1 }
            let slot = Board.firstVirtioSlot(spec) + virtioDisks
            return "/pci@i0cf8/scsi@\(hexadecimal(slot))/disk@0,0"
        case .nvme:
            defer { nvmeDisks += 1 }
            // OVMF knows NVMe controllers by these numbers, whatever they have.
            let slot = Board.nvmeSlot(nvmeDisks)
            return "/pci@i0cf8/pci8086,5845@\(hexadecimal(slot))/namespace@1,0"
        case .ide:
            let place = next(on: bus)
            return "/pci@i0cf8/ide@\(hexadecimal(Board.ideSlot))/drive@\(place / 2)/disk@\(place % 2)"
        case .scsi:
            // The controller comes after the virtio disks.
            let slot = Board.firstVirtioSlot(spec) + spec.disks.count { $0.bus == .virtio }
            return "/pci@i0cf8/scsi@\(hexadecimal(slot))/channel@0/disk@\(hexadecimal(next(on: bus))),0"
        case .usb:
            // Sockets are counted from 1, the SuperSpeed ports of sticks from the first one.
            let socket = hexadecimal(next(on: bus) + 1)
            return "/pci@i0cf8/usb@\(hexadecimal(Board.usbSlot))/storage@\(socket)/channel@0/disk@0,0"
        case .sata: return "/pci@i0cf8/pci8086,2922@1f,2/drive@\(next(on: bus))/disk@0"
        }
    }

    private mutating func next(on bus: DiskBus) -> Int {
        defer { drives[bus, default: 0] += 1 }
        return drives[bus, default: 0]
    }
}
