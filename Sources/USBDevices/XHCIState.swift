/// Where a producer or a consumer is in a ring.
struct RingPlace: Codable, Sendable, Equatable {
    var address: UInt64 = 0
    var cycle = true
}

/// A run of an event ring's blocks, §6.5.
struct EventRingSegment: Codable, Sendable, Equatable {
    static let sizes: ClosedRange<UInt32> = 16...4096
    var start: UInt64
    var size: UInt32
}

/// An interrupter with its event ring.
struct Interrupter: Codable, Sendable, Equatable {
    var management: UInt32 = 0
    var moderation: UInt32 = 4000
    var tableSize: UInt32 = 0
    var table: UInt64 = 0
    /// ERDP.
    var dequeue: UInt64 = 0
    /// As the table said when its address was written; empty: there is no ring.
    var segments: [EventRingSegment] = []
    /// Where the next event goes.
    var segment = 0
    var entry: UInt32 = 0
    var cycle = true
    /// Events that wait for room.
    var waiting: [TRB] = []
    /// Software was told that there is none.
    var isFull = false

    /// The place after `segment` and `entry`.
    func next(_ place: (segment: Int, entry: UInt32)) -> (segment: Int, entry: UInt32) {
        guard place.entry + 1 == segments[place.segment].size else { return (place.segment, place.entry + 1) }
        return (place.segment + 1 == segments.count ? 0 : place.segment + 1, 0)
    }

    func address(_ place: (segment: Int, entry: UInt32)) -> UInt64 {
        segments[place.segment].start &+ UInt64(place.entry) * TRB.size
    }

    /// No event is where software has not been.
    var isEmpty: Bool { segments.isEmpty || address((segment, entry)) == dequeue & ~0xF }

    var isPossible: Bool {
        guard segments.count <= XHCICapability.mostSegments, waiting.count <= XHCIController.mostWaiting,
            segments.allSatisfy({ EventRingSegment.sizes.contains($0.size) })
        else { return false }
        return segments.isEmpty || segments.indices.contains(segment) && entry < segments[segment].size
    }
}

/// An endpoint that a slot has.
struct Endpoint: Codable, Sendable, Equatable {
    var type: UInt8
    var state = EndpointState.running
    var ring: RingPlace
    /// Between the stages of a control transfer: its setup packet, and whether the device has had it.
    var setup: USBSetup?
    var isSetupDone = false
    /// The guest has asked for a transfer since the endpoint was there, or stopped.
    var isInUse = false
}

/// A device slot, §4.5.
struct Slot: Codable, Sendable, Equatable {
    var state = SlotState.enabled
    /// Index of the root hub's port; nil before there is a device.
    var port: Int?
    /// Of the output device context.
    var context: UInt64 = 0
    /// By device context index less one.
    var endpoints = [Endpoint?](repeating: nil, count: 31)
}

/// A port of the root hub.
struct Port: Codable, Sendable, Equatable {
    /// PORTSC without link, speed and power.
    var status: UInt32 = 0
    var link = XHCILink.noDevice
    /// Power management settings: kept, without effect.
    var power: UInt32 = 0
    var extra: UInt32 = 0
}

extension XHCIController {
    /// Events that may wait for room: of ports, of commands and transfers before they notice.
    static let mostWaiting = 256

    /// Everything of a controller that a guest can see.
    struct Registers: Codable, Sendable, Equatable {
        var command: UInt32 = 0
        var status: UInt32 = XHCIStatus.halted
        var notification: UInt32 = 0
        var commandRing = RingPlace(address: 0, cycle: false)
        var isCommandRingRunning = false
        var contextArray: UInt64 = 0
        var configuration: UInt32 = 0
        var interrupters = [Interrupter](repeating: Interrupter(), count: XHCICapability.interrupters)
        var ports = [Port](repeating: Port(), count: XHCICapability.ports)
        var slots = [Slot?](repeating: nil, count: XHCICapability.slots)
        /// What is in each port.
        var devices: [USBDevice?]

        var isRunning: Bool {
            command & XHCICommandRegister.run != 0 && status & XHCIStatus.controllerError == 0
        }

        /// Whether a controller with these devices can have these.
        func isPossible(with devices: [USBDevice?]) -> Bool {
            guard command & ~XHCICommandRegister.kept == 0, status & ~XHCIStatus.all == 0,
                configuration <= UInt32(XHCICapability.slots),
                interrupters.count == XHCICapability.interrupters,
                interrupters.allSatisfy(\.isPossible),
                ports.count == XHCICapability.ports,
                ports.allSatisfy({ XHCILink.all.contains($0.link) }),
                slots.count == XHCICapability.slots, self.devices.count == devices.count
            else { return false }
            let portsExist = slots.allSatisfy { slot in
                guard let slot else { return true }
                return slot.endpoints.count == 31
                    && slot.port.map { ports.indices.contains($0) } ?? (slot.state == .enabled)
            }
            return portsExist
                && zip(self.devices, devices).allSatisfy { saved, present in
                    saved.map { $0.isPossible(as: present) } ?? (present == nil)
                }
        }
    }
}
