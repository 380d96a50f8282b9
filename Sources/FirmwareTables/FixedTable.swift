internal import ByteLayout

/// The FADT, revision 6 (ACPI 6.5 §5.2.9): where the fixed hardware is. Offsets are from the table's start.
struct FixedTable {
    private enum Offset {
        static let firmwareControl = 36, dsdt = 40, profile = 45, interrupt = 46, commandPort = 48
        static let enable = 52, disable = 53, eventBlock = 56, controlBlock = 64, timerBlock = 76
        static let generalEventBlock = 80, eventLength = 88, controlLength = 89, timerLength = 91
        static let generalEventLength = 92, latency2 = 96, latency3 = 98, century = 108, bootFlags = 109
        static let flags = 112, resetRegister = 116, resetValue = 128, minorVersion = 131, dsdt64 = 140
        static let eventBlock64 = 148, controlBlock64 = 172, timerBlock64 = 208, generalEventBlock64 = 220
        static let size = 276
    }
    /// Table 5.10.
    private struct Flags: OptionSet {
        let rawValue: UInt32
        static let flushCaches = Flags(rawValue: 1 << 0), haltOnAllProcessors = Flags(rawValue: 1 << 2)
        static let noFixedSleepButton = Flags(rawValue: 1 << 5)
        /// The clock's alarm has no bits of its own in PM1 (RTC_STS, RTC_EN).
        static let noFixedAlarm = Flags(rawValue: 1 << 6)
        static let timer32 = Flags(rawValue: 1 << 8), resetRegister = Flags(rawValue: 1 << 10)
    }
    /// Table 5.11, IAPC_BOOT_ARCH.
    private struct BootFlags: OptionSet {
        let rawValue: UInt16
        static let legacyDevices = BootFlags(rawValue: 1 << 0),
            keyboardController = BootFlags(rawValue: 1 << 1)
        static let noVGA = BootFlags(rawValue: 1 << 2), noRealTimeClock = BootFlags(rawValue: 1 << 5)
    }
    private static let desktop: UInt8 = 1
    /// CMOS register that holds the century.
    private static let centuryRegister: UInt8 = 0x32

    static func build(_ platform: PlatformDescription) -> ACPITable {
        let power = platform.powerManagement
        var fields = [UInt8](repeating: 0, count: Offset.size)
        fields[Offset.profile] = desktop
        fields.store(littleEndian: UInt16(power.interrupt), at: Offset.interrupt)
        fields.store(littleEndian: UInt32(power.commandPort), at: Offset.commandPort)
        fields[Offset.enable] = power.enableCommand
        fields[Offset.disable] = power.disableCommand
        // Longer than 100 and 1000 us: no C2 and no C3.
        fields.store(littleEndian: UInt16(0xFFF), at: Offset.latency2)
        fields.store(littleEndian: UInt16(0xFFF), at: Offset.latency3)
        if platform.hasRealTimeClock { fields[Offset.century] = centuryRegister }

        // Every block twice: as a port for old systems, as a generic address for new ones.
        func block(_ port: UInt16, length: UInt8, access: UInt8, _ old: Int, _ new: Int, _ lengthAt: Int) {
            fields.store(littleEndian: UInt32(port), at: old)
            fields[lengthAt] = length
            storeAddress(&fields, port, bits: length &* 8, access: access, at: new)
        }
        block(
            power.eventPort, length: 4, access: 2, Offset.eventBlock, Offset.eventBlock64, Offset.eventLength)
        block(
            power.controlPort, length: 2, access: 2, Offset.controlBlock, Offset.controlBlock64,
            Offset.controlLength)
        block(
            power.timerPort, length: 4, access: 3, Offset.timerBlock, Offset.timerBlock64, Offset.timerLength)
        block(
            power.generalEventPort, length: power.generalEventLength, access: 1, Offset.generalEventBlock,
            Offset.generalEventBlock64, Offset.generalEventLength)
        storeAddress(&fields, power.resetPort, bits: 8, access: 1, at: Offset.resetRegister)
        fields[Offset.resetValue] = power.resetValue
        fields[Offset.minorVersion] = 5

        var flags: Flags = [
            .flushCaches, .haltOnAllProcessors, .noFixedSleepButton, .resetRegister,
        ]
        if !platform.hasRealTimeClock { flags.insert(.noFixedAlarm) }
        if power.timerHas32Bits { flags.insert(.timer32) }
        fields.store(littleEndian: flags.rawValue, at: Offset.flags)
        var boot: BootFlags = [.legacyDevices]
        if platform.hasKeyboardController { boot.insert(.keyboardController) }
        if !platform.hasVGA { boot.insert(.noVGA) }
        if !platform.hasRealTimeClock { boot.insert(.noRealTimeClock) }
        fields.store(littleEndian: boot.rawValue, at: Offset.bootFlags)

        var table = ACPITable("FACP", revision: 6, body: Array(fields[ACPITable.headerSize...]))
        // X_FIRMWARE_CTRL stays 0: a system may only see one of the two.
        table.point(at: "FACS", from: Offset.firmwareControl, size: 4)
        table.point(at: "DSDT", from: Offset.dsdt, size: 4)
        table.point(at: "DSDT", from: Offset.dsdt64, size: 8)
        return table
    }

    /// Generic address structure of a port (§5.2.3.2); `access` 1, 2, 3 = byte, word, dword.
    private static func storeAddress(
        _ fields: inout [UInt8], _ port: UInt16, bits: UInt8, access: UInt8, at offset: Int
    ) {
        fields[offset] = 1
        fields[offset + 1] = bits
        fields[offset + 3] = access
        fields.store(littleEndian: UInt64(port), at: offset + 4)
    }
}
