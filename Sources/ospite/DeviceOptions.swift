internal import ArgumentParser
internal import MachineSpec

/// Network cards, and the buses that devices are on.
struct DeviceOptions: ParsableArguments {
    @Option(
        help: """
            A network card: unplugged[,mac=ADDRESS][,rom=FILE|off][,root-port=N] for one without a cable, \
            or none. Up to eight.
            """)
    var net: [String] = []

    @Option(
        help:
            "PCI Express root ports, 0 to 8, for virtio and NVMe disks and cards with root-port=N, N from 1.")
    var pcieRootPorts = 0

    /// The cards, in the order in which they were given.
    func cards() throws(SpecError) -> [NetworkOption] {
        try net.map { text throws(SpecError) in try NetworkOption.parse(text) }.compactMap { $0 }
    }
}

extension [NetworkOption] {
    /// iPXE for virtio cards, for a BIOS and for a UEFI.
    private static var usualROM: String { "/usr/lib/ipxe/qemu/efi-virtio.rom" }

    /// The cards as a machine describes them, with the ROMs that are `roms`, one for each card.
    func specs(for machine: MachineUUID, roms: [ResourceIndex?]) -> [NetworkSpec] {
        zip(self, roms).enumerated().map { number, card in
            let (option, rom) = card
            return NetworkSpec(
                connection: option.connection,
                address: option.address ?? .usual(for: machine, card: number), rom: rom,
                rootPort: option.rootPort)
        }
    }

    /// Opens the ROMs; without a firmware nobody looks at the usual one.
    func open(into files: inout OpenedFiles, hasFirmware: Bool) throws(RunFailure) -> [ResourceIndex?] {
        try map { option throws(RunFailure) in
            switch option.rom {
            case .off: return nil
            case .usual: return hasFirmware ? try files.addCardROM(Self.usualROM, package: "ipxe-qemu") : nil
            case .file(let path): return try files.addFile(path, option: "--net rom=")
            }
        }
    }
}
