internal import MachineSpec

/// Open Firmware paths of what may be booted, in the order in which the firmware shall try it.
struct BootOrder {
    private let spec: MachineSpec
    /// How many devices of each kind have got their place.
    private var virtioDisks = 0, nvmeDisks = 0, cards = 0
    private var drives: [DiskBus: Int] = [:]

    init(_ spec: MachineSpec) { self.spec = spec }

    /// One path a line, the first one first.
    var text: String {
        var places = self
        // On a controller disks come before CD drives.
        let disks = spec.disks.map { places.path(of: $0) }
        let discs = spec.drives.map { places.path(of: $0.bus) }
        let paths: [BootDevice: [String]] = [
            .disk: disks, .cd: discs, .net: spec.networks.map { places.path(of: $0) },
            .floppy: spec.floppies.indices.map { "/pci@i0cf8/isa@1f/fdc@03f0/floppy@\($0)" },
        ]
        // What nobody has named comes last.
        let named = spec.firmware?.bootOrder ?? []
        let order = named + BootDevice.allCases.filter { !named.contains($0) }
        return order.flatMap { paths[$0] ?? [] }.joined(separator: "\n")
    }

    private static let root = "/pci@i0cf8"
    private static func hexadecimal(_ number: Int) -> String { String(number, radix: 16) }

    /// The place of a device in a slot of bus 0, or behind a root port.
    private static func path(_ kind: String, slot: Int, behind port: Int? = nil) -> String {
        guard let port else { return root + "/\(kind)@\(hexadecimal(slot))" }
        let number = port > 1 ? ",\(hexadecimal(port - 1))" : ""
        return root + "/pci-bridge@\(hexadecimal(Board.rootPortSlot))\(number)/\(kind)@0"
    }

    private mutating func path(of card: NetworkSpec) -> String {
        defer { if card.rootPort == nil { cards += 1 } }
        let slot = Board.networkSlot(cards, spec)
        return Self.path("ethernet", slot: slot, behind: card.rootPort) + "/ethernet-phy@0"
    }

    private mutating func path(of disk: DiskSpec) -> String {
        switch disk.bus {
        case .virtio:
            defer { if disk.rootPort == nil { virtioDisks += 1 } }
            let slot = Board.firstVirtioSlot(spec) + virtioDisks
            return Self.path("scsi", slot: slot, behind: disk.rootPort) + "/disk@0,0"
        case .nvme:
            defer { if disk.rootPort == nil { nvmeDisks += 1 } }
            // OVMF knows NVMe controllers by these numbers, whatever they have.
            let slot = Board.nvmeSlot(nvmeDisks, spec)
            return Self.path("pci8086,5845", slot: slot, behind: disk.rootPort) + "/namespace@1,0"
        default: return path(of: disk.bus)
        }
    }

    /// The place of the next disk or CD drive of a controller. Disks come before drives, as on those.
    private mutating func path(of bus: DiskBus) -> String {
        switch bus {
        case .ide:
            let place = next(on: bus)
            return Self.path("ide", slot: Board.ideSlot) + "/drive@\(place / 2)/disk@\(place % 2)"
        case .scsi:
            // The controller comes after the virtio disks.
            let slot = Board.firstVirtioSlot(spec) + spec.disksOnBoard(.virtio)
            return Self.path("scsi", slot: slot) + "/channel@0/disk@\(Self.hexadecimal(next(on: bus))),0"
        case .usb:
            // Sockets are counted from 1, the SuperSpeed ports of sticks from the first one.
            let socket = Self.hexadecimal(next(on: bus) + 1)
            return Self.path("usb", slot: Board.usbSlot) + "/storage@\(socket)/channel@0/disk@0,0"
        case .sata: return Self.root + "/pci8086,2922@1f,2/drive@\(next(on: bus))/disk@0"
        case .virtio, .nvme: preconditionFailure("such a disk has a controller of its own")
        }
    }

    private mutating func next(on bus: DiskBus) -> Int {
        defer { drives[bus, default: 0] += 1 }
        return drives[bus, default: 0]
    }
}
