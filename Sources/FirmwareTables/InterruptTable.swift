internal import ByteLayout

/// The MADT (ACPI 6.5 §5.2.12): processors and interrupt controllers.
struct InterruptTable {
    /// Polarity and trigger mode of an interrupt (MPS INTI flags, table 5.26).
    private enum Interrupt {
        static let asItsBus: UInt16 = 0, levelActiveHigh: UInt16 = 0x0D
    }
    /// Local APIC ids from here on need x2APIC structures (255 is the broadcast id).
    private static let firstWideID: UInt32 = 255
    private static let enabled: UInt32 = 1

    static func build(_ platform: PlatformDescription) -> ACPITable {
        var body: [UInt8] = []
        body.append(littleEndian: platform.localAPICAddress)
        // PCAT_COMPAT: the two 8259s are there too.
        body.append(littleEndian: UInt32(platform.hasLegacyController ? 1 : 0))
        for (index, id) in platform.apicIDs.enumerated() {
            appendProcessor(&body, unique: UInt32(index), id: id)
        }
        body += [1, 12, platform.ioapicID, 0]
        body.append(littleEndian: platform.ioapicAddress)
        body.append(littleEndian: UInt32(0))
        // The timer is wired to input 2; the system control interrupt is level triggered, unlike other ISA
        // ones.
        if platform.hasLegacyController {
            appendOverride(&body, source: 0, input: 2, flags: Interrupt.asItsBus)
        }
        let sci = platform.powerManagement.interrupt
        appendOverride(&body, source: sci, input: UInt32(sci), flags: Interrupt.levelActiveHigh)
        // LINT1 of every local APIC is NMI.
        body += [4, 6, 0xFF, 0, 0, 1]
        if platform.apicIDs.contains(where: { $0 >= firstWideID }) {
            body += [10, 12, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]
        }
        return ACPITable("APIC", revision: 5, body: body)
    }

    private static func appendProcessor(_ body: inout [UInt8], unique: UInt32, id: UInt32) {
        // The short structure has room for 8-bit numbers only.
        if id < firstWideID, unique < firstWideID {
            body += [0, 8, UInt8(unique), UInt8(id)]
            body.append(littleEndian: enabled)
        } else {
            body += [9, 16, 0, 0]
            for field in [id, enabled, unique] { body.append(littleEndian: field) }
        }
    }

    private static func appendOverride(_ body: inout [UInt8], source: UInt8, input: UInt32, flags: UInt16) {
        body += [2, 10, 0, source]
        body.append(littleEndian: input)
        body.append(littleEndian: flags)
    }
}
