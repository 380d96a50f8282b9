extension IDEChannel {
    /// The registers of a drive. Those of 48-bit commands hold two bytes each, the one before in the upper
    /// half.
    struct DriveRegisters: Codable, Sendable, Equatable {
        var status: UInt8 = 0
        var error: UInt8 = 0
        var features: UInt16 = 0
        var count: UInt16 = 0
        var low: UInt16 = 0
        var mid: UInt16 = 0
        var high: UInt16 = 0
        var device: UInt8 = 0

        /// The task file of a 48-bit command.
        func extended(_ command: UInt8) -> ATATaskFile {
            let current = UInt64(low & 0xFF) | UInt64(mid & 0xFF) << 8 | UInt64(high & 0xFF) << 16
            let previous = UInt64(low >> 8) | UInt64(mid >> 8) << 8 | UInt64(high >> 8) << 16
            return ATATaskFile(
                command: command, features: features, address: current | previous << 24, count: count,
                device: device)
        }

        /// That of any other: without the bytes before. Cylinders, heads and sectors become an address;
        /// drives have 16 heads and 63 sectors.
        func short(_ command: UInt8) -> ATATaskFile {
            var address = UInt64(low & 0xFF) | UInt64(mid & 0xFF) << 8 | UInt64(high & 0xFF) << 16
            var device = device
            let usesAddress: UInt8 = 1 << 6
            if device & usesAddress == 0, IDECommand.hasAddress(command) {
                let cylinder = address >> 8, sector = max(address & 0xFF, 1) - 1
                address = (cylinder * 16 + UInt64(device & 0xF)) * 63 + sector
                device = device & 0xF0 | UInt8(address >> 24 & 0xF)
                address &= 0xFF_FFFF
            }
            return ATATaskFile(
                command: command, features: features & 0xFF, address: address, count: count & 0xFF,
                device: device)
        }

        mutating func sign(_ signature: UInt32) {
            count = UInt16(signature & 0xFF)
            low = UInt16(signature >> 8 & 0xFF)
            mid = UInt16(signature >> 16 & 0xFF)
            high = UInt16(signature >> 24)
            device = 0
            error = 1
        }

        /// What a device answers in the registers.
        mutating func take(_ result: SATAResult) {
            status = result.status
            error = result.error
            guard result.count != 0 || result.address != 0 || result.device != 0 else { return }
            count = result.count
            func pair(_ shift: UInt64) -> UInt16 {
                UInt16(result.address >> shift & 0xFF) | UInt16(result.address >> (shift + 24) & 0xFF) << 8
            }
            (low, mid, high) = (pair(0), pair(8), pair(16))
            device = device & 0xF0 | result.device & 0xF
        }
    }

    /// What happens on the channel.
    enum Phase: UInt8, Codable, Sendable {
        case idle
        /// A device works on a command.
        case working
        /// The guest reads or writes the buffer.
        case dataIn, dataOut
        /// The guest writes the packet of an ATAPI command.
        case packet
        /// A command has come, and the bus master has yet to be started.
        case awaitingBusMaster
    }

    /// A transfer through the data register: parts of it are in the buffer by turns.
    struct Transfer: Codable, Sendable, Equatable {
        var isPacket = false
        var isWrite = false
        /// Sector or CD block after those in the buffer, and how many come after them.
        var next: UInt64 = 0
        var rest: UInt64 = 0
        /// In the buffer. Of a write: how many it shall take.
        var count: UInt64 = 0
        /// Bytes that the guest of an ATAPI drive takes at a time.
        var limit = 0
        /// In the registers at the end of an ATAPI command.
        var interruptReason: UInt16 = 0
    }

    /// Everything of a channel that a guest can see.
    struct Saved: Codable, Sendable, Equatable {
        var drives: [DriveRegisters]
        /// 0 or 1.
        var selected = 0
        var control: UInt8 = 0
        var phase = Phase.idle
        var transfer = Transfer()
        var buffer: [UInt8] = []
        var position = 0
        /// Of the block that the guest moves before it is told of the next.
        var blockEnd = 0
        /// A command as it came, for the bus master.
        var command: UInt8 = 0
        var packet: [UInt8] = []
        var hasInterrupt = false
        var masterCommand: UInt8 = 0
        var masterStatus: UInt8 = 0
        var table: UInt32 = 0

        var isPossible: Bool {
            drives.count == 2 && (0...1).contains(selected) && phase != .working
                && buffer.count <= IDEChannel.bufferSize && (0...buffer.count).contains(position)
                && (position...buffer.count).contains(blockEnd) && table & 3 == 0
                && transfer.count <= UInt64(IDEChannel.bufferSize / 512) && transfer.rest <= 1 << 32
                && transfer.next <= 1 << 60 && (0...0xFFFE).contains(transfer.limit)
                && packet.count <= IDEChannel.packetSize && (phase != .packet || buffer.count == packetSpace)
                && (![.dataIn, .dataOut].contains(phase) || position < blockEnd)
        }
        private var packetSpace: Int { IDEChannel.packetSize }
    }
}

extension IDECommand {
    static func hasAddress(_ code: UInt8) -> Bool {
        readSectors.contains(code) || writeSectors.contains(code) || dma.contains(code) || code == 0x40
    }
}
