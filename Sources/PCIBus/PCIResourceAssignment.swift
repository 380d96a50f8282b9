/// A BAR that does not fit into the window given for its kind.
public struct PCIResourceError: Error, Equatable, Sendable, CustomStringConvertible {
    public let slot: Int
    public let function: Int
    public let bar: Int
    public var description: String {
        "no room for BAR \(bar) of PCI function 0:\(slot).\(function) in its address window"
    }
}

extension PCIHostBridge {
    /// Gives every BAR an address, switches decoding on and fills the interrupt line registers, as firmware
    /// does: for boot protocols that start a kernel directly. Large BARs first, so that alignment wastes
    /// nothing. 64-bit BARs go to `memory64Window` when there is one.
    /// - Throws: the first BAR that does not fit; the BARs before it keep their addresses.
    public func assignResources(
        memoryWindow: Range<UInt64>, ioWindow: Range<UInt64>, memory64Window: Range<UInt64>? = nil
    ) throws(PCIResourceError) {
        var windows: [BARLayout.Kind: Range<UInt64>] = [.io: ioWindow, .memory32: memoryWindow]
        windows[.memory64] = memory64Window
        for request in resourceRequests() {
            let kind =
                request.layout.kind == .memory64 && memory64Window == nil ? .memory32 : request.layout.kind
            guard let window = windows[kind], let address = Self.place(request.layout.size, in: window) else {
                throw PCIResourceError(slot: request.slot, function: request.number, bar: request.bar)
            }
            windows[kind] = (address + request.layout.size)..<window.upperBound
            request.function.assign(bar: request.bar, address: address)
        }
        for (slot, _, function) in functions where function.layout.interruptPin != 0 {
            let line = Self.line(slot: slot, pin: Int(function.layout.interruptPin) - 1)
            function.writeConfig(offset: ConfigRegister.interruptLine, count: 1, value: UInt32(line))
        }
    }

    private struct Request {
        let slot: Int
        let number: Int
        let function: PCIFunction
        let bar: Int
        let layout: BARLayout
    }

    private func resourceRequests() -> [Request] {
        var requests: [Request] = []
        for (slot, number, function) in functions {
            for (bar, layout) in function.layout.bars.enumerated() {
                guard let layout else { continue }
                requests.append(
                    Request(slot: slot, number: number, function: function, bar: bar, layout: layout))
            }
        }
        return requests.sorted {
            ($1.layout.size, $0.slot, $0.number, $0.bar) < ($0.layout.size, $1.slot, $1.number, $1.bar)
        }
    }

    /// The lowest aligned address for `size` bytes in `window`.
    private static func place(_ size: UInt64, in window: Range<UInt64>) -> UInt64? {
        let (sum, overflow) = window.lowerBound.addingReportingOverflow(size - 1)
        guard !overflow else { return nil }
        let address = sum & ~(size - 1)
        guard address <= window.upperBound, window.upperBound - address >= size else { return nil }
        return address
    }
}
