internal import BlockStorage
internal import SCSICommands

/// What a transfer on an endpoint other than 0 comes with.
struct USBTransfer {
    /// Its number, without the direction.
    let endpoint: Int
    let isIn: Bool
    /// Room for data, or data.
    let count: Int
    /// At most so many of the first bytes that come with it; nil when they are no memory.
    let load: (Int) -> [UInt8]?
}

/// What a device does about a transfer.
enum USBOutcome: Equatable {
    case taken(Int)
    /// As many bytes as the transfer has room for, or fewer.
    case given([UInt8])
    /// There is nothing to give or no way to take: the host tries again until there is.
    case waits
    case stalls
    /// The transfer goes on when the disk has moved so many sectors between itself and the transfer's memory.
    case disk(BlockRequest.Operation, sector: UInt64, count: UInt64)
}

/// What a device does once its disk has done what it was asked.
enum USBProgress: Equatable {
    case disk(BlockRequest.Operation, sector: UInt64, count: UInt64)
    /// The transfer ends with so many bytes moved.
    case ended(Int)
}

/// What every device keeps of itself, USB 2.0 §9.1.
struct USBStanding: Codable, Sendable, Equatable {
    /// 0: not configured.
    var configuration: UInt8 = 0
    var mayWake = false
}

/// The behaviour of one kind of device. Values: the controller keeps and locks them.
protocol USBFunction: Codable, Sendable, Equatable {
    var standing: USBStanding { get set }
    var identity: USBIdentity { get }
    /// A request of its class, or a standard one that only this kind has; nil stalls.
    mutating func answer(_ setup: USBSetup, _ data: [UInt8]) -> [UInt8]?
    /// The port was reset.
    mutating func reset()
}

extension USBFunction {
    /// A whole control transfer; `data` is what came with it. Nil stalls.
    mutating func control(_ setup: USBSetup, _ data: [UInt8]) -> [UInt8]? {
        guard setup.isStandard else { return answer(setup, data) }
        switch (setup.request, setup.type & 0x1F) {
        case (USBRequest.getStatus, let recipient):
            // Powered by the bus.
            return [recipient == USBRecipient.device && standing.mayWake ? 2 : 0, 0]
        case (USBRequest.clearFeature, let recipient), (USBRequest.setFeature, let recipient):
            return setFeature(setup.value, to: setup.request == USBRequest.setFeature, of: recipient)
        case (USBRequest.getDescriptor, USBRecipient.device):
            return identity.descriptor(type: UInt8(setup.value >> 8), index: UInt8(setup.value & 0xFF))
        case (USBRequest.getConfiguration, _): return [standing.configuration]
        case (USBRequest.setConfiguration, _):
            guard setup.value <= 1 else { return nil }
            standing.configuration = UInt8(setup.value)
            return []
        case (USBRequest.getInterface, _): return [0]
        case (USBRequest.setInterface, _): return setup.value == 0 ? [] : nil
        // The controller gives addresses; latencies are for hubs.
        case (USBRequest.setAddress, _), (USBRequest.setLatencies, _), (USBRequest.setDelay, _): return []
        default: return answer(setup, data)
        }
    }

    private mutating func setFeature(_ feature: UInt16, to isSet: Bool, of recipient: UInt8) -> [UInt8]? {
        switch (recipient, feature) {
        case (USBRecipient.device, USBFeature.remoteWakeup): standing.mayWake = isSet
        case (USBRecipient.device, USBFeature.link), (USBRecipient.interface, _),
            (USBRecipient.endpoint, USBFeature.endpointHalt):
            break
        default: return nil
        }
        return []
    }
}

/// A device in a port.
enum USBDevice: Codable, Sendable, Equatable {
    case tablet(HIDTablet)
    case keyboard(HIDKeyboard)
    case storage(USBStorage)

    var function: any USBFunction {
        switch self {
        case .tablet(let tablet): tablet
        case .keyboard(let keyboard): keyboard
        case .storage(let storage): storage
        }
    }

    mutating func control(_ setup: USBSetup, _ data: [UInt8]) -> [UInt8]? {
        switch self {
        case .tablet(var tablet):
            defer { self = .tablet(tablet) }
            return tablet.control(setup, data)
        case .keyboard(var keyboard):
            defer { self = .keyboard(keyboard) }
            return keyboard.control(setup, data)
        case .storage(var storage):
            defer { self = .storage(storage) }
            return storage.control(setup, data)
        }
    }

    /// A disk is behind storage, and only there.
    mutating func transfer(_ transfer: USBTransfer, _ disk: SCSIDisk?) -> USBOutcome {
        guard function.standing.configuration != 0 else { return .stalls }
        switch self {
        case .tablet(var tablet):
            defer { self = .tablet(tablet) }
            return tablet.transfer(transfer)
        case .keyboard(var keyboard):
            defer { self = .keyboard(keyboard) }
            return keyboard.transfer(transfer)
        case .storage(var storage):
            guard let disk else { return .stalls }
            defer { self = .storage(storage) }
            return storage.transfer(transfer, disk)
        }
    }

    /// The disk has done, or failed to do, what the last outcome asked for.
    mutating func diskIsDone(_ succeeded: Bool) -> USBProgress {
        guard case .storage(var storage) = self else { return .ended(0) }
        defer { self = .storage(storage) }
        return storage.diskIsDone(succeeded)
    }

    mutating func reset() {
        switch self {
        case .tablet(var tablet):
            tablet.reset()
            self = .tablet(tablet)
        case .keyboard(var keyboard):
            keyboard.reset()
            self = .keyboard(keyboard)
        case .storage(var storage):
            storage.reset()
            self = .storage(storage)
        }
    }

    /// Whether a saved device is one that this one could have become.
    func isPossible(as present: USBDevice?) -> Bool {
        guard function.standing.configuration <= 1 else { return false }
        switch (self, present) {
        case (.tablet(let saved), .tablet): return saved.isPossible
        case (.keyboard(let saved), .keyboard): return saved.isPossible
        case (.storage(let saved), .storage(let present)):
            return saved.isPossible && saved.serial == present.serial
        default: return false
        }
    }
}
