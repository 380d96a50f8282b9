/// Ports of the floppy controller (Intel 82077AA data sheet 290166 §2.1).
enum FloppyPort {
    static let output: UInt16 = 0x3F2, tape: UInt16 = 0x3F3, status: UInt16 = 0x3F4, data: UInt16 = 0x3F5
    /// Of the digital input register and the data rate.
    static let change: UInt16 = 0x3F7
}

/// The digital output register.
enum FloppyOutput {
    static let select: UInt8 = 3, runs: UInt8 = 1 << 2, gate: UInt8 = 1 << 3
}

/// The main status register.
enum FloppyStatus {
    static let request: UInt8 = 1 << 7, toGuest: UInt8 = 1 << 6, busy: UInt8 = 1 << 4
}

/// Status registers 0 to 3, §5.3.
enum FloppyResult {
    static let abnormal: UInt8 = 1 << 6, invalid: UInt8 = 1 << 7, polled: UInt8 = 3 << 6
    static let seekEnd: UInt8 = 1 << 5, equipment: UInt8 = 1 << 4
    static let noMark: UInt8 = 1 << 0, notWritable: UInt8 = 1 << 1, noData: UInt8 = 1 << 2
    static let overrun: UInt8 = 1 << 4, dataError: UInt8 = 1 << 5, endOfCylinder: UInt8 = 1 << 7
    static let wrongCylinder: UInt8 = 1 << 4
    static let writeProtected: UInt8 = 1 << 6, ready: UInt8 = 1 << 5, track0: UInt8 = 1 << 4
    static let twoSides: UInt8 = 1 << 3
}

/// Commands, §5.1: the lower five bits, and how many bytes follow.
enum FloppyCommand {
    static let specify: UInt8 = 0x03, driveStatus: UInt8 = 0x04, write: UInt8 = 0x05, read: UInt8 = 0x06
    static let recalibrate: UInt8 = 0x07, interruptStatus: UInt8 = 0x08, writeDeleted: UInt8 = 0x09
    static let readIdentifier: UInt8 = 0x0A, readDeleted: UInt8 = 0x0C, format: UInt8 = 0x0D
    static let dump: UInt8 = 0x0E, seek: UInt8 = 0x0F, version: UInt8 = 0x10, perpendicular: UInt8 = 0x12
    static let configure: UInt8 = 0x13, lock: UInt8 = 0x14, verify: UInt8 = 0x16

    static let parameters: [UInt8: Int] = [
        specify: 2, driveStatus: 1, write: 8, read: 8, recalibrate: 1, interruptStatus: 0, writeDeleted: 8,
        readIdentifier: 1, readDeleted: 8, format: 5, dump: 0, seek: 2, version: 0, perpendicular: 1,
        configure: 3, lock: 0, verify: 8,
    ]
    /// Upper bits of reads and writes: both heads; of lock: on; of a seek: by so many cylinders, inwards.
    static let multiTrack: UInt8 = 1 << 7, relative: UInt8 = 1 << 7, inwards: UInt8 = 1 << 6
    /// Size of sectors: 128 << 2.
    static let sectorSizeCode: UInt8 = 2
}

/// What a disk looks like, by its size; drives are of its kind.
public struct FloppyGeometry: Sendable, Equatable {
    public let cylinders: Int, heads: Int, sectors: Int
    /// How the PC's CMOS names the drive.
    public let driveType: UInt8

    public static let all = [
        FloppyGeometry(cylinders: 40, heads: 2, sectors: 9, driveType: 1),
        FloppyGeometry(cylinders: 80, heads: 2, sectors: 15, driveType: 2),
        FloppyGeometry(cylinders: 80, heads: 2, sectors: 9, driveType: 3),
        FloppyGeometry(cylinders: 80, heads: 2, sectors: 18, driveType: 4),
        FloppyGeometry(cylinders: 80, heads: 2, sectors: 36, driveType: 5),
    ]
    /// Sectors of 512 bytes on the disk.
    public var sectorCount: UInt64 { UInt64(cylinders * heads * sectors) }

    /// Nil: no disk has that many sectors.
    public init?(sectorCount: UInt64) {
        guard let match = Self.all.first(where: { $0.sectorCount == sectorCount }) else { return nil }
        self = match
    }

    private init(cylinders: Int, heads: Int, sectors: Int, driveType: UInt8) {
        self.cylinders = cylinders
        self.heads = heads
        self.sectors = sectors
        self.driveType = driveType
    }
}
