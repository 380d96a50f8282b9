internal import MachineSpec

/// The description of a machine as a payload: the fields in the order of `write`, lists after a one-byte
/// count.
extension MachineSpec {
    func write(to writer: inout WireWriter) {
        writer.put(name.description)
        for byte in uuid.bytes { writer.put(byte) }
        writer.put(accelerator.rawValue)
        writer.put(UInt8(clamping: cpuCount))
        writer.put(memory.bytes)
        writer.put(machineType.rawValue)
        writer.put(video.rawValue)
        writer.put(input.rawValue)
        writer.put(display?.surface)
        writer.put(display?.link)
        writer.put(options.rawValue)
        writer.put(codeCache.bytes)
        writer.put(sandbox.rawValue)
        writer.put(kvm)
        writer.put(perfMap)
        writer.put(boot?.kernel)
        writer.put(boot?.initialRAMDisk)
        writer.put(boot?.commandLine ?? "")
        firmware.write(to: &writer)
        writer.put(UInt8(clamping: disks.count))
        for disk in disks { disk.write(to: &writer) }
        writer.put(UInt8(clamping: drives.count))
        for drive in drives {
            writer.put(drive.disc)
            writer.put(drive.bus.rawValue)
        }
        writer.put(UInt8(clamping: floppies.count))
        for disk in floppies { disk.write(to: &writer) }
        writer.put(UInt8(clamping: networks.count))
        for card in networks { card.write(to: &writer) }
        writer.put(UInt8(clamping: rootPorts))
        writer.put(UInt8(clamping: serialPorts.count))
        for port in serialPorts { port.write(to: &writer) }
        writer.put(UInt8(console == nil ? 0 : 1))
        console?.write(to: &writer)
        writer.put(debugger?.listener)
        writer.put(UInt8(debugger?.waits == true ? 1 : 0))
    }

    init(reading reader: inout WireReader) throws(WireError) {
        let nameText = try reader.takeText()
        let name: MachineName
        do throws(SpecError) {
            name = try MachineName(nameText)
        } catch {
            throw WireError(error.description)
        }
        guard let uuid = MachineUUID(bytes: try reader.takeBytes(16)) else {
            throw WireError("a UUID is cut off")
        }
        self.init(name: name, uuid: uuid)
        accelerator = try reader.takeCase(of: Accelerator.self)
        cpuCount = Int(try reader.take(UInt8.self))
        memory = MemorySize(bytes: try reader.take(UInt64.self))
        machineType = try reader.takeCase(of: MachineType.self)
        video = try reader.takeCase(of: VideoAdapter.self)
        input = try reader.takeCase(of: InputDevices.self)
        let surface = try reader.takeResource(), link = try reader.takeResource()
        guard (surface == nil) == (link == nil) else { throw WireError("half a display") }
        if let surface, let link { display = DisplaySpec(surface: surface, link: link) }
        options = RunOptions(rawValue: try reader.take(UInt32.self))
        guard RunOptions.known.isSuperset(of: options) else { throw WireError("an option is unknown") }
        codeCache = MemorySize(bytes: try reader.take(UInt64.self))
        sandbox = try reader.takeCase(of: SandboxMode.self)
        kvm = try reader.takeResource()
        perfMap = try reader.takeResource()
        boot = try Self.takeBoot(&reader)
        firmware = try FirmwareSpec?(reading: &reader)
        for _ in 0..<(try reader.takeCount(atMost: Self.mostDisks)) {
            disks.append(try DiskSpec(reading: &reader))
        }
        for _ in 0..<(try reader.takeCount(atMost: Self.sataPorts + Self.idePlaces)) {
            let disc = try reader.takeResource()
            drives.append(DriveSpec(disc: disc, bus: try reader.takeCase(of: DiskBus.self)))
        }
        for _ in 0..<(try reader.takeCount(atMost: Self.mostFloppies)) {
            floppies.append(try DiskSpec(reading: &reader))
        }
        for _ in 0..<(try reader.takeCount(atMost: Self.mostNetworks)) {
            networks.append(try NetworkSpec(reading: &reader))
        }
        rootPorts = try reader.takeCount(atMost: Self.mostRootPorts)
        for _ in 0..<(try reader.takeCount(atMost: Self.mostSerialPorts)) {
            serialPorts.append(try SerialBackend(reading: &reader))
        }
        if try reader.takeFlag() { console = try SerialBackend(reading: &reader) }
        let debugSocket = try reader.takeResource(), waits = try reader.takeFlag()
        guard debugSocket != nil || !waits else { throw WireError("a wait for no debugger") }
        debugger = debugSocket.map { DebuggerSpec(listener: $0, waits: waits) }
    }

    private static func takeBoot(_ reader: inout WireReader) throws(WireError) -> KernelBoot? {
        let kernel = try reader.takeResource()
        let initialRAMDisk = try reader.takeResource()
        let commandLine = try reader.takeText()
        guard let kernel else {
            guard initialRAMDisk == nil, commandLine.isEmpty else {
                throw WireError("there is an initial RAM disk or a command line, but no kernel")
            }
            return nil
        }
        return KernelBoot(kernel: kernel, initialRAMDisk: initialRAMDisk, commandLine: commandLine)
    }
}

extension FirmwareSpec? {
    fileprivate func write(to writer: inout WireWriter) {
        writer.put(self?.image)
        guard let firmware = self else { return }
        writer.put(firmware.kind.rawValue)
        writer.put(firmware.variables)
        writer.put(firmware.videoROM)
        writer.put(firmware.log)
        writer.put(firmware.screenText)
        writer.put(UInt8(firmware.hasBootMenu ? 1 : 0))
        writer.put(UInt8(clamping: firmware.bootOrder.count))
        for device in firmware.bootOrder { writer.put(device.rawValue) }
    }

    fileprivate init(reading reader: inout WireReader) throws(WireError) {
        guard let image = try reader.takeResource() else {
            self = nil
            return
        }
        var firmware = FirmwareSpec(
            kind: try reader.takeCase(of: FirmwareKind.self), image: image,
            variables: try reader.takeResource(), videoROM: try reader.takeResource(),
            log: try reader.takeResource(),
            screenText: try reader.takeResource(), hasBootMenu: try reader.takeFlag())
        for _ in 0..<(try reader.takeCount(atMost: BootDevice.allCases.count)) {
            firmware.bootOrder.append(try reader.takeCase(of: BootDevice.self))
        }
        self = firmware
    }
}

extension DiskSpec {
    fileprivate func write(to writer: inout WireWriter) {
        writer.put(image)
        writer.put(overlay)
        writer.put(byteCount)
        writer.put(format.rawValue)
        writer.put(bus.rawValue)
        writer.put(UInt8(isReadOnly ? 1 : 0))
        writer.put(UInt8(clamping: rootPort ?? 0))
    }

    fileprivate init(reading reader: inout WireReader) throws(WireError) {
        self.init(
            image: try reader.takeRequiredResource(), overlay: try reader.takeResource(),
            byteCount: try reader.take(UInt64.self), format: try reader.takeCase(of: DiskFormat.self),
            bus: try reader.takeCase(of: DiskBus.self), isReadOnly: try reader.takeFlag(),
            rootPort: try reader.takeRootPort())
    }
}

extension NetworkSpec {
    fileprivate func write(to writer: inout WireWriter) {
        writer.put(connection.rawValue)
        for byte in address.bytes { writer.put(byte) }
        writer.put(rom)
        writer.put(UInt8(clamping: rootPort ?? 0))
    }

    fileprivate init(reading reader: inout WireReader) throws(WireError) {
        let connection = try reader.takeCase(of: NetworkConnection.self)
        guard let address = MACAddress(bytes: try reader.takeBytes(6)) else {
            throw WireError("an address that no network card has")
        }
        self.init(
            connection: connection, address: address, rom: try reader.takeResource(),
            rootPort: try reader.takeRootPort())
    }
}

extension WireReader {
    /// 0 is none.
    fileprivate mutating func takeRootPort() throws(WireError) -> Int? {
        let number = try takeCount(atMost: MachineSpec.mostRootPorts)
        return number == 0 ? nil : number
    }
}

extension SerialBackend {
    private enum Code { static let none: UInt8 = 0, stream: UInt8 = 1, listener: UInt8 = 2 }

    fileprivate func write(to writer: inout WireWriter) {
        switch self {
        case .none: writer.put(Code.none)
        case .stream(let input, let output):
            writer.put(Code.stream)
            writer.put(input)
            writer.put(output)
        case .listener(let socket):
            writer.put(Code.listener)
            writer.put(socket)
        }
    }

    fileprivate init(reading reader: inout WireReader) throws(WireError) {
        switch try reader.take(UInt8.self) {
        case Code.none: self = .none
        case Code.stream:
            let input = try reader.takeResource()
            self = .stream(input: input, output: try reader.takeRequiredResource())
        case Code.listener: self = .listener(try reader.takeRequiredResource())
        case let other: throw WireError("there is no serial backend \(other)")
        }
    }
}
