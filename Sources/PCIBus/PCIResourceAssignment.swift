/// A BAR that does not fit into the window given for its kind, or the first one of a bus that does not.
public struct PCIResourceError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The place on bus 0; of a bus that does not fit, that of its root port.
    public let slot: Int
    public let function: Int
    public let bar: Int
    public var description: String {
        "no room for BAR \(bar) of PCI function 0:\(slot).\(function) in its address window"
    }
}

extension PCIHostBridge {
    /// Gives every BAR an address, the bus behind every root port a number and the windows that its device
    /// needs, switches decoding on and fills the interrupt line registers, as firmware does: for boot
    /// protocols that start a kernel directly. Large BARs first, so that alignment wastes nothing. 64-bit
    /// BARs of bus 0 go to `memory64Window` when there is one.
    /// - Throws: the first BAR that does not fit; the BARs before it keep their addresses.
    public func assignResources(
        memoryWindow: Range<UInt64>, ioWindow: Range<UInt64>, memory64Window: Range<UInt64>? = nil
    ) throws(PCIResourceError) {
        var windows: [BARLayout.Kind: Range<UInt64>] = [.io: ioWindow, .memory32: memoryWindow]
        windows[.memory64] = memory64Window
        let places = functions
        var requests: [ResourceRequest] = []
        for (slot, number, function) in places {
            requests += ResourceRequest.bars(
                of: function, slot: slot, number: number, has64Bits: memory64Window != nil)
        }
        for (index, entry) in rootPorts.enumerated() {
            entry.port.assign(bus: index + 1)
            let number = places.first { $0.function === entry.port.function }?.number ?? 0
            requests += ResourceRequest.windows(of: entry.port, slot: entry.slot, number: number)
        }
        for request in requests.sorted(by: { $0.comesBefore($1) }) {
            guard let window = windows[request.kind],
                let address = Self.place(request.size, alignment: request.alignment, in: window)
            else { throw PCIResourceError(slot: request.slot, function: request.number, bar: request.bar) }
            windows[request.kind] = (address + request.size)..<window.upperBound
            request.assign(address)
        }
        assignLines(places)
    }

    private func assignLines(_ places: [(slot: Int, number: Int, function: PCIFunction)]) {
        func assign(_ line: Int, _ function: PCIFunction) {
            function.writeConfig(offset: ConfigRegister.interruptLine, count: 1, value: UInt32(line))
        }
        for (slot, _, function) in places where function.layout.interruptPin != 0 {
            assign(Self.line(slot: slot, pin: Int(function.layout.interruptPin) - 1), function)
        }
        for (port, slot) in rootPorts {
            guard let function = port.deviceFunction else { continue }
            if let line = Self.line(behind: slot, function) { assign(line, function) }
        }
    }

    /// The lowest address for `size` bytes in `window` that is a multiple of `alignment`, a power of two.
    private static func place(_ size: UInt64, alignment: UInt64, in window: Range<UInt64>) -> UInt64? {
        let (sum, overflow) = window.lowerBound.addingReportingOverflow(alignment - 1)
        guard !overflow else { return nil }
        let address = sum & ~(alignment - 1)
        guard address <= window.upperBound, window.upperBound - address >= size else { return nil }
        return address
    }
}

/// Addresses that a function of bus 0 needs: for a BAR, or for a window of a root port with all that is
/// behind it.
private struct ResourceRequest {
    let slot: Int, number: Int, bar: Int
    let kind: BARLayout.Kind
    let size: UInt64
    /// A power of two.
    let alignment: UInt64
    let assign: (UInt64) -> Void

    func comesBefore(_ other: ResourceRequest) -> Bool {
        (other.alignment, slot, number, bar) < (alignment, other.slot, other.number, other.bar)
    }

    static func bars(of function: PCIFunction, slot: Int, number: Int, has64Bits: Bool) -> [ResourceRequest] {
        function.layout.bars.enumerated().compactMap { bar, layout in
            guard let layout else { return nil }
            let kind = layout.kind == .memory64 && !has64Bits ? .memory32 : layout.kind
            return ResourceRequest(
                slot: slot, number: number, bar: bar, kind: kind, size: layout.size, alignment: layout.size
            ) { function.assign(bar: bar, address: $0) }
        }
    }

    /// At most one for memory and one for ports. BARs of 64 bits are in the window for 32: the other one is
    /// for memory that may be read ahead.
    static func windows(of port: PCIRootPort, slot: Int, number: Int) -> [ResourceRequest] {
        guard let device = port.deviceFunction else { return [] }
        let behind = bars(of: device, slot: slot, number: number, has64Bits: false)
        func window(
            _ kind: BARLayout.Kind, granule: UInt64, _ open: @escaping (Range<UInt64>) -> Void
        ) -> ResourceRequest? {
            let parts = behind.filter { $0.kind == kind }.sorted { $0.comesBefore($1) }
            guard let first = parts.first else { return nil }
            // From large to small powers of two, each begins at a multiple of its size.
            let size = (parts.reduce(0) { $0 + $1.size } + granule - 1) & ~(granule - 1)
            return ResourceRequest(
                slot: slot, number: number, bar: first.bar, kind: kind, size: size,
                alignment: max(first.alignment, granule)
            ) { address in
                open(address..<address + size)
                var next = address
                for part in parts {
                    part.assign(next)
                    next += part.size
                }
            }
        }
        return [
            window(.memory32, granule: 1 << 20) { port.open(memory: $0) },
            window(.io, granule: 1 << 12) { port.open(io: $0) },
        ].compactMap { $0 }
    }
}
