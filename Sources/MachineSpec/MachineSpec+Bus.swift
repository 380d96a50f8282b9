/// What is where on the PCI bus of a PC.
extension MachineSpec {
    /// Functions of one slot.
    public static let mostRootPorts = 8
    public static let mostNetworks = 8
    /// Slots 1 to 28 of the bus; the others are the board's own devices.
    static let freeSlots = 28

    /// Disks of `bus` that have slots of the board's own bus.
    public func disksOnBoard(_ bus: DiskBus) -> Int { disks.count { $0.bus == bus && $0.rootPort == nil } }

    /// What takes the free slots: the screen, virtio and NVMe disks, a virtio-scsi controller, cards, a
    /// console, the entropy source and the balloon, and all root ports in one.
    private var takenSlots: Int {
        (hasScreen ? 1 : 0) + disksOnBoard(.virtio) + disksOnBoard(.nvme) + min(disksOnBoard(.scsi), 1)
            + networks.count { $0.rootPort == nil } + (console == nil ? 0 : 1) + 2 + min(rootPorts, 1)
    }

    func validateBus() throws(SpecError) {
        guard (0...Self.mostRootPorts).contains(rootPorts), machineType == .pc || rootPorts == 0 else {
            throw SpecError(
                "--pcie-root-ports is 0 to \(Self.mostRootPorts), on a pc: give it such a number.")
        }
        guard networks.count <= Self.mostNetworks else {
            throw SpecError(
                "A machine has at most \(Self.mostNetworks) network cards: leave out some --net options.")
        }
        guard Set(networks.map(\.address)).count == networks.count else {
            throw SpecError("Two network cards have one address: give each --net another mac=.")
        }
        guard machineType == .pc || networks.allSatisfy({ $0.rom == nil }) else {
            throw SpecError("--machine micro has no firmware to run a card's ROM: use rom=off.")
        }
        let movable = disks.filter { $0.rootPort != nil }.map(\.bus)
        guard movable.allSatisfy({ $0 == .virtio || $0 == .nvme }) else {
            throw SpecError(
                "Only disks with a controller of their own can be behind a root port: use bus=virtio or "
                    + "bus=nvme with root-port=.")
        }
        var taken: Set<Int> = []
        for port in disks.compactMap(\.rootPort) + networks.compactMap(\.rootPort) {
            guard (1...max(rootPorts, 1)).contains(port), rootPorts > 0 else {
                throw SpecError("There is no root port \(port): give --pcie-root-ports a larger number.")
            }
            guard taken.insert(port).inserted else {
                throw SpecError("Root port \(port) has place for one device: give each another root-port=.")
            }
        }
        guard machineType == .micro || takenSlots <= Self.freeSlots else {
            throw SpecError(
                "The PCI bus has no slot left: leave out some disks or network cards, or put some behind "
                    + "root ports.")
        }
    }
}
