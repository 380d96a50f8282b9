internal import ByteLayout
public import DeviceModel
internal import Synchronization

/// What stands behind the BARs of a function. Any thread; called with no lock of the function held.
public protocol PCIFunctionHandler: AnyObject, Sendable {
    /// `offset` and `width` may be anything inside the BAR, aligned or not.
    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64)
    /// What processors may reach without asking, from the start of a memory BAR on; nil for most BARs.
    func directMemory(bar: Int) -> (any DirectMemory)?
    /// The guest is about to read the function's configuration window, whose capability (with its header)
    /// now holds `capability`: returns the bytes to show in the window.
    func readConfigWindow(_ capability: [UInt8]) -> [UInt8]
    /// The guest wrote into the window; `capability` is the result.
    func writeConfigWindow(_ capability: [UInt8])
    /// The bytes `range` of configuration space may have changed: written, reset or restored. Changes by
    /// several processors may be told in another order than they happened: read the registers again.
    func configurationChanged(_ range: Range<Int>, of function: PCIFunction)
}

extension PCIFunctionHandler {
    public func directMemory(bar: Int) -> (any DirectMemory)? { nil }
    public func readConfigWindow(_ capability: [UInt8]) -> [UInt8] { [] }
    public func writeConfigWindow(_ capability: [UInt8]) {}
    public func configurationChanged(_ range: Range<Int>, of function: PCIFunction) {}
}

/// Where a function keeps its MSI-X structures; both inside one BAR, 8-byte aligned and disjoint.
public struct MSIXPlacement: Sendable {
    public var bar: Int
    public var table: UInt64
    public var pending: UInt64
    public init(bar: Int, table: UInt64 = 0, pending: UInt64 = 0x800) {
        self.bar = bar
        self.table = table
        self.pending = pending
    }
}

/// The fixed shape of a function.
public struct PCIFunctionLayout: Sendable {
    public var identity: PCIIdentity
    /// Up to six; the entry after a 64-bit BAR is nil.
    public var bars: [BARLayout?]
    /// 0 for none, 1 to 4 for INTA to INTD.
    public var interruptPin: UInt8
    public var msix: MSIXPlacement?
    public var capabilities: [PCICapability]
    /// Index into `capabilities` and byte range in it that the handler computes on access (VIRTIO §4.1.4.9).
    public var window: (capability: Int, bytes: Range<Int>)?
    /// Registers of this kind of device, apart from the capabilities.
    public var registers: [PCIRegister]
    /// The expansion ROM; empty for none.
    public var rom: [UInt8]

    public init(
        identity: PCIIdentity, bars: [BARLayout?] = [], interruptPin: UInt8 = 0, msix: MSIXPlacement? = nil,
        capabilities: [PCICapability] = [], window: (capability: Int, bytes: Range<Int>)? = nil,
        registers: [PCIRegister] = [], rom: [UInt8] = []
    ) {
        precondition(rom.count <= ConfigExpansionROM.largest, "the expansion ROM is too large")
        self.registers = registers
        self.rom = rom
        self.identity = identity
        self.bars = bars
        self.interruptPin = interruptPin
        self.msix = msix
        self.capabilities = capabilities
        self.window = window
    }
}

/// One PCI function: configuration space, BARs mapped onto the buses, and MSI-X.
///
/// The guest may program any address into a BAR. An address that the buses cannot reach (I/O beyond 64 Ki)
/// is not mapped; over RAM the RAM wins; over another device the one that was mapped last wins, and the
/// other is uncovered again when the BAR moves away.
///
/// Confinement: any thread. Lock order: handler, function, interrupts, buses.
public final class PCIFunction: MemoryMappedDevice, PortDevice {
    public static let kind = "pci-function"

    public struct Saved: Codable, Sendable, Equatable {
        public var config: [UInt8]
        public var interrupts: PCIInterrupts.Saved
    }

    private struct Mapping: Equatable {
        var address: UInt64
        var handle: Int
    }
    private struct State {
        var config: PCIConfigSpace
        var mmio: MMIOBus?
        var portBus: PortBus?
        /// The BARs, then the expansion ROM.
        var mapped = [Mapping?](repeating: nil, count: PCIConfigSpace.barCount + 1)
    }

    public let layout: PCIFunctionLayout
    public let interrupts: PCIInterrupts
    private let handler: any PCIFunctionHandler
    private let state: Mutex<State>
    private let msixOffset: Int?
    /// The window in configuration space and where its capability starts and ends.
    private let window: (bytes: Range<Int>, capability: Range<Int>)?

    /// `interrupts` has as many vectors as the MSI-X capability shall show.
    public init(_ layout: PCIFunctionLayout, interrupts: PCIInterrupts, handler: any PCIFunctionHandler) {
        var capabilities = layout.capabilities
        if let msix = layout.msix, interrupts.vectors > 0 {
            capabilities.append(Self.capability(msix, vectors: interrupts.vectors))
        }
        let config = PCIConfigSpace(
            identity: layout.identity, bars: layout.bars, interruptPin: layout.interruptPin,
            capabilities: capabilities, registers: layout.registers, romSize: Self.decodedSize(layout.rom))
        msixOffset =
            capabilities.count > layout.capabilities.count
            ? config.capabilityOffsets[capabilities.count - 1] : nil
        if let window = layout.window {
            let start = config.capabilityOffsets[window.capability]
            let end = start + 2 + capabilities[window.capability].body.count
            self.window = (start + window.bytes.lowerBound..<start + window.bytes.upperBound, start..<end)
        } else {
            window = nil
        }
        self.layout = layout
        self.interrupts = interrupts
        self.handler = handler
        state = Mutex(State(config: config))
    }

    private static let romRegion = PCIConfigSpace.barCount

    private static func decodedSize(_ rom: [UInt8]) -> UInt64 {
        guard !rom.isEmpty else { return 0 }
        var size = ConfigExpansionROM.smallest
        while size < rom.count { size *= 2 }
        return UInt64(size)
    }

    /// The MSI-X capability (§6.8.2.1): control, table offset and BIR, PBA offset and BIR.
    private static func capability(_ msix: MSIXPlacement, vectors: Int) -> PCICapability {
        precondition(
            msix.table % 8 == 0 && msix.pending % 8 == 0 && msix.bar < 6, "MSI-X structures are aligned")
        var body: [UInt8] = []
        body.append(littleEndian: UInt16(vectors - 1))
        body.append(littleEndian: UInt32(msix.table) | UInt32(msix.bar))
        body.append(littleEndian: UInt32(msix.pending) | UInt32(msix.bar))
        var writable = [UInt8](repeating: 0, count: body.count)
        writable.store(littleEndian: MSIXControl.enable | MSIXControl.functionMask, at: 0)
        return PCICapability(id: PCICapabilityID.msix, body: body, writable: writable)
    }

    // MARK: Wiring by the host bridge

    func connect(mmio: MMIOBus, portBus: PortBus, pin: InterruptLine?) {
        if let pin { interrupts.connect(pin: pin) }
        state.withLock { state in
            state.mmio = mmio
            state.portBus = portBus
            remap(&state)
        }
    }

    /// Takes the BARs off the buses (the function was unplugged).
    func disconnect() {
        state.withLock { state in
            for region in state.mapped.indices { unmap(region, &state) }
            state.mmio = nil
            state.portBus = nil
        }
    }

    /// The function is at the lower end of a link; before the guest runs.
    func becomeEndpoint() { state.withLock { $0.config.append(ExpressCapability.endpoint) } }

    func setMultifunction() { state.withLock { $0.config.setMultifunction() } }

    // MARK: Configuration accesses

    /// `count` (1 to 4) bytes at any offset; bytes beyond 255 read as ones, or as zeros where there is
    /// a link above.
    public func readConfig(offset: Int, count: Int) -> UInt32 {
        if let window, window.bytes.overlaps(offset..<(offset &+ max(count, 1))) {
            let capability = state.withLock { Array($0.config.bytes[window.capability]) }
            let shown = handler.readConfigWindow(capability).prefix(window.bytes.count)
            state.withLock { $0.config.replace(window.bytes.lowerBound, with: Array(shown)) }
        }
        var value = state.withLock { $0.config.read(offset: offset, count: count) }
        let status = ConfigRegister.status &- offset
        if status >= 0, status < count, interrupts.isPinRequested {
            value |= UInt32(ConfigStatus.interrupt) << UInt32(8 * status)
        }
        return value
    }

    /// `count` (1 to 4) bytes at any offset.
    public func writeConfig(offset: Int, count: Int, value: UInt32) {
        let range = offset..<(offset &+ max(count, 1))
        state.withLock { state in
            state.config.write(offset: offset, count: count, value: value)
            apply(&state, changed: range)
        }
        if let window, window.bytes.overlaps(range) {
            handler.writeConfigWindow(state.withLock { Array($0.config.bytes[window.capability]) })
        }
        handler.configurationChanged(range, of: self)
    }

    /// Side effects of a change of the bytes in `changed`.
    private func apply(_ state: inout State, changed: Range<Int>) {
        let barBytes = ConfigRegister.firstBAR..<ConfigRegister.firstBAR + 4 * PCIConfigSpace.barCount
        let commandBytes = ConfigRegister.command..<ConfigRegister.command + 2
        let romBytes = ConfigRegister.expansionROM..<ConfigRegister.expansionROM + 4
        if changed.overlaps(barBytes) || changed.overlaps(commandBytes) || changed.overlaps(romBytes) {
            remap(&state)
        }
        let msixBytes = msixOffset.map { ($0 + 2)..<($0 + 4) } ?? 0..<0
        if changed.overlaps(commandBytes) || changed.overlaps(msixBytes) { configureInterrupts(&state) }
    }

    private func configureInterrupts(_ state: inout State) {
        var control: UInt16 = 0
        if let msixOffset {
            control = UInt16(truncatingIfNeeded: state.config.read(offset: msixOffset + 2, count: 2))
        }
        interrupts.configure(
            msixEnabled: control & MSIXControl.enable != 0,
            functionMasked: control & MSIXControl.functionMask != 0,
            pinDisabled: state.config.command & ConfigCommand.interruptDisable != 0)
    }

    // MARK: BARs

    private func remapROM(_ state: inout State) {
        let wanted = state.config.decodedROMAddress
        guard wanted != state.mapped[Self.romRegion]?.address else { return }
        unmap(Self.romRegion, &state)
        guard let wanted, let mmio = state.mmio else { return }
        let handle = mmio.map(self, region: Self.romRegion, at: wanted, size: state.config.romSize)
        state.mapped[Self.romRegion] = Mapping(address: wanted, handle: handle)
    }

    private func remap(_ state: inout State) {
        remapROM(&state)
        for bar in 0..<PCIConfigSpace.barCount {
            let wanted = state.config.decodedAddress(of: bar)
            guard wanted != state.mapped[bar]?.address else { continue }
            unmap(bar, &state)
            guard let address = wanted, let layout = state.config.bars[bar] else { continue }
            if layout.kind == .io {
                guard let portBus = state.portBus, address + layout.size <= 0x1_0000 else { continue }
                let ports = UInt16(address)...UInt16(address + layout.size - 1)
                state.mapped[bar] = Mapping(address: address, handle: portBus.map(self, ports))
            } else if let mmio = state.mmio {
                let handle = mmio.map(self, region: bar, at: address, size: layout.size)
                state.mapped[bar] = Mapping(address: address, handle: handle)
            }
        }
    }

    private func unmap(_ bar: Int, _ state: inout State) {
        guard let mapping = state.mapped[bar] else { return }
        state.mapped[bar] = nil
        if bar < PCIConfigSpace.barCount, state.config.bars[bar]?.kind == .io {
            state.portBus?.unmap(mapping.handle)
        } else {
            state.mmio?.unmap(mapping.handle)
        }
    }

    /// Where BAR `index` decodes now; nil when it is switched off or absent.
    public func decodedAddress(ofBAR index: Int) -> UInt64? {
        guard (0..<PCIConfigSpace.barCount).contains(index) else { return nil }
        return state.withLock { $0.config.decodedAddress(of: index) }
    }

    /// Programs a BAR and switches its decoding on, as firmware does.
    func assign(bar: Int, address: UInt64) {
        state.withLock { state in
            state.config.setAddress(of: bar, to: address)
            let enable =
                state.config.bars[bar]?.kind == .io ? ConfigCommand.ioSpace : ConfigCommand.memorySpace
            let command = state.config.command | enable
            state.config.write(offset: ConfigRegister.command, count: 2, value: UInt32(command))
            remap(&state)
        }
    }

    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        if region == Self.romRegion { return readROM(offset, width) }
        if let (part, at) = msixPart(region, offset) {
            return part == .table
                ? interrupts.readTable(offset: at, width: width)
                : interrupts.readPending(offset: at, width: width)
        }
        return handler.readBAR(region, offset: offset, width: width)
    }

    private func readROM(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<width.bytes {
            let place = Int(clamping: offset) &+ byte
            let field: UInt8 = layout.rom.indices.contains(place) ? layout.rom[place] : 0xFF
            value |= UInt64(field) << UInt64(8 * byte)
        }
        return value
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        if region == Self.romRegion { return }
        if let (part, at) = msixPart(region, offset) {
            if part == .table { interrupts.writeTable(offset: at, width: width, value: value) }
            return
        }
        handler.writeBAR(region, offset: offset, width: width, value: value)
    }

    public func directMemory(region: Int) -> (any DirectMemory)? {
        region < PCIConfigSpace.barCount && layout.msix?.bar != region
            ? handler.directMemory(bar: region) : nil
    }

    private enum MSIXPart { case table, pending }

    private func msixPart(_ bar: Int, _ offset: UInt64) -> (MSIXPart, UInt64)? {
        guard let msix = layout.msix, msix.bar == bar else { return nil }
        let inTable = offset &- msix.table
        if inTable < UInt64(interrupts.vectors * MSIXTable.entrySize) { return (.table, inTable) }
        let inPending = offset &- msix.pending
        if inPending < UInt64((interrupts.vectors + 63) / 64 * 8) { return (.pending, inPending) }
        return nil
    }

    /// I/O BARs move, so no port belongs to the function from the start.
    public var ports: [ClosedRange<UInt16>] { [] }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        guard let (bar, offset) = portBAR(port) else { return ~0 }
        return UInt32(truncatingIfNeeded: handler.readBAR(bar, offset: offset, width: width))
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        guard let (bar, offset) = portBAR(port) else { return }
        handler.writeBAR(bar, offset: offset, width: width, value: UInt64(value))
    }

    private func portBAR(_ port: UInt16) -> (Int, UInt64)? {
        state.withLock { state in
            for bar in 0..<PCIConfigSpace.barCount {
                guard let layout = state.config.bars[bar], layout.kind == .io,
                    let address = state.mapped[bar]?.address
                else { continue }
                let offset = UInt64(port) &- address
                if offset < layout.size { return (bar, offset) }
            }
            return nil
        }
    }

    // MARK: Lifecycle

    public func reset() {
        state.withLock { state in
            state.config.reset()
            remap(&state)
        }
        interrupts.reset()
        handler.configurationChanged(0..<PCIConfigSpace.size, of: self)
    }

    public func save() -> Saved {
        Saved(config: state.withLock { $0.config.bytes }, interrupts: interrupts.save())
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let configFits = state.withLock { state in
            guard state.config.restore(saved.config) else { return false }
            remap(&state)
            configureInterrupts(&state)
            return true
        }
        guard configFits else { throw RestoreError(Self.kind, "configuration space of another function") }
        let interruptsFit = interrupts.restore(saved.interrupts)
        guard interruptsFit else { throw RestoreError(Self.kind, "MSI-X table of another size") }
        handler.configurationChanged(0..<PCIConfigSpace.size, of: self)
    }
}
