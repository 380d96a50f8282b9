internal import BlockStorage
internal import ByteLayout
internal import GuestMemory

/// The NVM command set, NVM Express 1.4 §6.
extension NVMeCore {
    static let sectorSize = 512

    func perform(_ command: NVMeCommand) {
        do throws(NVMeFailure) {
            try start(command)
        } catch {
            finish(command, error.status)
        }
    }

    private func start(_ command: NVMeCommand) throws(NVMeFailure) {
        guard command.flags == 0 else { throw NVMeFailure(NVMeStatus.invalidField) }
        guard NVMeOpcode.all.contains(command.opcode) else { throw NVMeFailure(NVMeStatus.invalidOpcode) }
        let isForAll = command.opcode == NVMeOpcode.flush && command.namespace == .max
        guard command.namespace == 1 || isForAll else { throw NVMeFailure(NVMeStatus.invalidNamespace) }
        switch command.opcode {
        case NVMeOpcode.flush: submit(BlockRequest(.flush), command, NVMeStatus.writeFault)
        case NVMeOpcode.read, NVMeOpcode.write: try transfer(command)
        case NVMeOpcode.writeZeroes:
            try checkRange(command.firstBlock, command.blockCount, isWrite: true)
            let mayUnmap = command.word(12) >> 25 & 1 != 0
            let request = BlockRequest(
                .writeZeroes(mayUnmap: mayUnmap), sector: command.firstBlock, sectorCount: command.blockCount)
            write(request, command)
        default: try manageDataset(command)
        }
    }

    private func checkRange(_ first: UInt64, _ count: UInt64, isWrite: Bool) throws(NVMeFailure) {
        let capacity = backend.capacity
        guard first <= capacity, count <= capacity - first else { throw NVMeFailure(NVMeStatus.outOfRange) }
        guard !isWrite || !backend.isReadOnly else { throw NVMeFailure(NVMeStatus.writeProtected) }
    }

    private func transfer(_ command: NVMeCommand) throws(NVMeFailure) {
        let isRead = command.opcode == NVMeOpcode.read, count = Int(command.blockCount) * Self.sectorSize
        try checkRange(command.firstBlock, command.blockCount, isWrite: !isRead)
        guard count <= NVMeIdentity.largestTransfer else { throw NVMeFailure(NVMeStatus.invalidField) }
        let data = try pages(command, count)
        guard let buffers = data.buffers(count, forWriting: isRead) else {
            throw NVMeFailure(NVMeStatus.transferError)
        }
        let request = BlockRequest(
            isRead ? .read : .write, sector: command.firstBlock, sectorCount: command.blockCount,
            buffers: buffers)
        guard isRead else { return write(request, command) }
        backend.submit(request) { [self] succeeded in
            if succeeded { data.noteStore(count) }
            finish(command, succeeded ? NVMeStatus.success : NVMeStatus.unreadable) { state in
                state.registers.counters.reads &+= 1
                state.registers.counters.sectorsRead &+= command.blockCount
            }
        }
    }

    /// Without a write cache, or when the command says so (FUA), it ends when its data is durable.
    private func write(_ request: BlockRequest, _ command: NVMeCommand) {
        let isDurable = command.word(12) >> 30 & 1 != 0 || !registers.choices.hasWriteCache
        let count: @Sendable (inout State) -> Void = { state in
            guard request.operation == .write else { return }
            state.registers.counters.writes &+= 1
            state.registers.counters.sectorsWritten &+= command.blockCount
        }
        backend.submit(request) { [self] succeeded in
            guard succeeded, isDurable else {
                return finish(command, succeeded ? NVMeStatus.success : NVMeStatus.writeFault, and: count)
            }
            backend.submit(BlockRequest(.flush)) { [self] succeeded in
                finish(command, succeeded ? NVMeStatus.success : NVMeStatus.writeFault, and: count)
            }
            backend.commit()
        }
    }

    private func submit(_ request: BlockRequest, _ command: NVMeCommand, _ failure: UInt16) {
        backend.submit(request) { [self] succeeded in
            finish(command, succeeded ? NVMeStatus.success : failure)
        }
    }

    // MARK: Dataset management, §6.7

    /// Up to 256 ranges of 16 bytes: attributes, count, first block. Only "deallocate" does anything.
    private func manageDataset(_ command: NVMeCommand) throws(NVMeFailure) {
        let entrySize = 16, count = (Int(command.word(10) & 0xFF) + 1) * entrySize
        guard command.word(11) >> 2 & 1 != 0 else { return finish(command) }
        guard let bytes = try pages(command, count).load(count) else {
            throw NVMeFailure(NVMeStatus.transferError)
        }
        var ranges: [BlockRequest] = []
        for place in stride(from: 0, to: count, by: entrySize) {
            guard let blocks = bytes.load(littleEndian: UInt32.self, at: place + 4),
                let first = bytes.load(littleEndian: UInt64.self, at: place + 8)
            else { break }
            try checkRange(first, UInt64(blocks), isWrite: true)
            if blocks > 0 {
                ranges.append(BlockRequest(.discard, sector: first, sectorCount: UInt64(blocks)))
            }
        }
        discard(ranges[...], command)
    }

    /// One after the other, so that a command is never more than one request at a time.
    private func discard(_ ranges: ArraySlice<BlockRequest>, _ command: NVMeCommand) {
        guard let first = ranges.first else { return finish(command) }
        backend.submit(first) { [self] succeeded in
            guard succeeded else { return finish(command, NVMeStatus.writeFault) }
            discard(ranges.dropFirst(), command)
        }
        backend.commit()
    }

    // MARK: Data pointer, §4.3

    /// The pages of `count` bytes, at most `NVMeIdentity.largestTransfer`: where the first one begins, and
    /// then a second one, or the address of a list of the others.
    func pages(_ command: NVMeCommand, _ count: Int) throws(NVMeFailure) -> ScatterList {
        let page = UInt64(NVMeIdentity.pageSize), (first, second) = command.pointers
        guard first & 3 == 0 else { throw NVMeFailure(NVMeStatus.invalidOffset) }
        var regions: [ScatterList.Region] = []
        var rest = count
        func append(_ address: UInt64) {
            let part = min(rest, Int(page - address % page))
            regions.append((address, part))
            rest -= part
        }
        append(first)
        guard rest > Int(page) else {
            if rest > 0 {
                guard second % page == 0 else { throw NVMeFailure(NVMeStatus.invalidOffset) }
                append(second)
            }
            return ScatterList(regions: regions, memory: memory)
        }
        var list = second
        while rest > 0 {
            guard list & 7 == 0 else { throw NVMeFailure(NVMeStatus.invalidOffset) }
            let room = Int(page - list % page) / 8, wanted = (rest + Int(page) - 1) / Int(page)
            guard let bytes = try? memory.bytes(GuestAddress(list), count: min(room, wanted) * 8) else {
                throw NVMeFailure(NVMeStatus.transferError)
            }
            var entries = stride(from: 0, to: bytes.count, by: 8).map { place in
                bytes.load(littleEndian: UInt64.self, at: place) ?? 0
            }
            // When it is not enough, the last entry of a page is where the list goes on: at the beginning of
            // a page, so that each has room for all the rest.
            let next = wanted > room ? entries.removeLast() : 0
            guard entries.allSatisfy({ $0 % page == 0 }), next % page == 0 else {
                throw NVMeFailure(NVMeStatus.invalidOffset)
            }
            for entry in entries { append(entry) }
            list = next
        }
        return ScatterList(regions: regions, memory: memory)
    }
}
