/// A command, as a register FIS (Serial ATA 3.0 §10.3.4) or the registers of a drive hold it.
struct ATATaskFile: Equatable, Sendable {
    var command: UInt8
    var features: UInt16
    /// 48 bits; commands with 28-bit addresses have bits 27..24 in `device`.
    var address: UInt64
    var count: UInt16
    var device: UInt8

    init(
        command: UInt8, features: UInt16, address: UInt64, count: UInt16, device: UInt8
    ) {
        self.command = command
        self.features = features
        self.address = address
        self.count = count
        self.device = device
    }

    init(_ fis: [UInt8]) {
        precondition(fis.count >= 16, "a register FIS")
        command = fis[2]
        features = UInt16(fis[3]) | UInt16(fis[11]) << 8
        address =
            UInt64(fis[4]) | UInt64(fis[5]) << 8 | UInt64(fis[6]) << 16 | UInt64(fis[8]) << 24
            | UInt64(fis[9]) << 32 | UInt64(fis[10]) << 40
        device = fis[7]
        count = UInt16(fis[12]) | UInt16(fis[13]) << 8
    }

    /// The address of commands with 28 bits.
    var shortAddress: UInt64 { address & 0xFF_FFFF | UInt64(device & 0x0F) << 24 }
}

/// A command that a device carries out.
struct SATACommand: Sendable {
    let taskFile: ATATaskFile
    /// Of an ATAPI command; else empty.
    let packet: [UInt8]
    let data: ScatterList
}

/// How a command ended.
struct SATAResult: Equatable, Sendable {
    /// How the device tells it.
    enum Form: Sendable {
        /// A register FIS: commands without data, DMA, and the last of an ATAPI command.
        case register
        /// A PIO setup FIS, after which the data was moved.
        case pio
        /// A set-device-bits FIS: queued commands.
        case queued
    }
    var form: Form = .register
    var status = ATAStatus.good
    var error: UInt8 = 0
    /// 48 bits; commands with 28-bit addresses answer bits 27..24 in `device`.
    var address: UInt64 = 0
    /// For ATAPI: the interrupt reason.
    var count: UInt16 = 0
    var device: UInt8 = 0
    var bytesMoved = 0

    static let aborted = SATAResult(status: ATAStatus.good | ATAStatus.error, error: ATAError.aborted)
    static let notFound = SATAResult(status: ATAStatus.good | ATAStatus.error, error: ATAError.notFound)
    var failed: Bool { status & ATAStatus.error != 0 }
}

/// A disk or drive behind a SATA port. Any thread.
protocol SATADevice: AnyObject, Sendable {
    /// Of the port's signature register (AHCI §3.3.9): how software tells disks and drives apart.
    var signature: UInt32 { get }
    /// Whether it takes the command from several slots at once.
    func isQueued(_ command: UInt8) -> Bool
    /// Carries out `command`; `finish` is called once, on any thread, perhaps before this returns.
    func start(_ command: SATACommand, finish: @escaping @Sendable (SATAResult) -> Void)
    /// The link was reset, or the machine.
    func reset()
    /// Returns when every command that was started has finished.
    func drain()
}
