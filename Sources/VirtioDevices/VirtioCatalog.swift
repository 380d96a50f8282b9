public import BlockStorage
public import DeviceModel
public import Virtio

/// What the host connects to virtio devices.
public struct VirtioBackends: Sendable {
    public var block: any BlockBackend
    public var sink: any ByteSink
    public var network: any NetworkBackend
    /// Returns that many random bytes.
    public var entropy: @Sendable (Int) -> [UInt8]

    public init(
        block: any BlockBackend, sink: any ByteSink, network: any NetworkBackend,
        entropy: @escaping @Sendable (Int) -> [UInt8]
    ) {
        self.network = network
        self.block = block
        self.sink = sink
        self.entropy = entropy
    }
}

/// A row of the catalog.
public struct VirtioEntry: Sendable {
    public let kind: String
    public let build: @Sendable (DeviceContext, VirtioBackends) -> any VirtioFunction

    init<Behaviour: VirtioDevice>(
        _ type: Behaviour.Type, _ build: @escaping @Sendable (DeviceContext, VirtioBackends) -> Behaviour
    ) {
        kind = type.kind
        self.build = { VirtioPCI(build($0, $1)) }
    }
}

/// Every virtio device; the fuzzer and the save and restore suite go through it.
// swift-format-ignore
public let virtioCatalog: [VirtioEntry] = [
    VirtioEntry(VirtioBlock.self)   { VirtioBlock($0, backend: $1.block) },
    VirtioEntry(VirtioSCSI.self)    { VirtioSCSI($0, [($1.block, "disk")]) },
    VirtioEntry(VirtioConsole.self) { VirtioConsole($0, sink: $1.sink) },
    VirtioEntry(VirtioEntropy.self) { VirtioEntropy($0, source: $1.entropy) },
    VirtioEntry(VirtioBalloon.self) { context, _ in VirtioBalloon(context) },
    VirtioEntry(VirtioNetwork.self) { context, backends in
        VirtioNetwork(context, address: [0x52, 0x54, 0, 1, 2, 3], backend: backends.network)
    },
    VirtioEntry(VirtioGPU.self)     { context, _ in VirtioGPU(context) },
    VirtioEntry(VirtioInput.self)   { context, _ in VirtioInput(context, .tablet) },
]
