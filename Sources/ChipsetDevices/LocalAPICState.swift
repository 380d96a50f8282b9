/// The registers of one local APIC and their transitions; no locks, no clock, no other APIC. What has to
/// happen outside is left in `effects`.
struct LocalAPICState: Sendable {
    /// What a transition asks of the world, after the lock is released.
    struct Effects: Sendable {
        var message: InterruptMessage?
        /// A level-triggered vector that ended, for the I/O APIC.
        var endedVector: UInt8?
        var nonMaskable = false
        var initialize = false
    }

    let identifier: UInt32
    var base: UInt64
    var requested = VectorSet()
    var inService = VectorSet()
    var levelTriggered = VectorSet()
    var taskPriority: UInt8 = 0
    /// xAPIC logical identifier, bits 31..24.
    var logicalDestination: UInt32 = 0
    var destinationFormat = APICLayout.flatFormat
    var spuriousVector: UInt32 = 0xFF
    /// ESR as software reads it, and the errors since its last write.
    var errorStatus: UInt32 = 0
    var pendingErrors: UInt32 = 0
    /// ICR; in xAPIC mode the destination is in bits 63..56.
    var command: UInt64 = 0
    var localVectors: [6 of UInt32] = .init(repeating: LocalVector.masked)
    /// The LINT0 and LINT1 pins.
    var pins: [2 of Bool] = .init(repeating: false)
    var timer = LocalAPICTimer()
    /// The one interrupt in service may have ended without our knowing. Never while the vCPU is held.
    var isEndDeferred = false

    init(identifier: UInt32) {
        self.identifier = identifier
        base = APICBase.address | APICBase.enable | (identifier == 0 ? APICBase.bootstrapProcessor : 0)
        resetRegisters()
    }

    /// What INIT clears: everything but the APIC base (SDM vol. 3 §11.4.7.3).
    mutating func resetRegisters() {
        let (oldBase, oldPins) = (base, pins)
        requested = VectorSet()
        inService = VectorSet()
        levelTriggered = VectorSet()
        taskPriority = 0
        logicalDestination = 0
        destinationFormat = APICLayout.flatFormat
        spuriousVector = 0xFF
        errorStatus = 0
        pendingErrors = 0
        command = 0
        localVectors = .init(repeating: LocalVector.masked)
        // The bootstrap processor starts in virtual-wire mode, as PC firmware leaves it and as other
        // hypervisors do: kernels that are loaded without firmware expect the PIC on LINT0.
        if identifier == 0 { localVectors[LocalVector.lint0.rawValue] = 0x700 }
        timer = LocalAPICTimer()
        isEndDeferred = false
        base = oldBase
        pins = oldPins
    }

    var isEnabled: Bool { base & APICBase.enable != 0 }
    var isX2APIC: Bool { base & APICBase.x2APICEnable != 0 }
    var isSoftwareEnabled: Bool { spuriousVector & APICLayout.softwareEnable != 0 }

    /// Cluster in bits 31..16, one bit of 15..0 (SDM vol. 3 §11.12.10.2).
    var x2APICLogicalDestination: UInt32 { (identifier >> 4) << 16 | 1 << (identifier & 0xF) }

    var address: APICAddress {
        var raw = UInt64(isX2APIC ? x2APICLogicalDestination : logicalDestination >> 24)
        if isX2APIC { raw |= APICAddress.x2APIC }
        if destinationFormat >> 28 == 0xF { raw |= APICAddress.flat }
        if isEnabled { raw |= APICAddress.enabled }
        if isEnabled && isSoftwareEnabled { raw |= APICAddress.softwareEnabled }
        return APICAddress(raw: raw)
    }

    /// PPR (SDM vol. 3 §11.8.3.1).
    var processorPriority: UInt8 {
        let service = (inService.highest ?? 0) & 0xF0
        return taskPriority & 0xF0 >= service ? taskPriority : service
    }

    /// The vector that would be delivered now.
    var deliverable: UInt8? {
        guard isEnabled, let vector = requested.highest, vector >> 4 > processorPriority >> 4 else {
            return nil
        }
        return vector
    }

    /// Whether the PIC's INTR reaches the processor: through LINT0 as ExtINT, or directly when the APIC is
    /// disabled in hardware.
    var acceptsExternalInterrupt: Bool {
        let lint0 = localVectors[LocalVector.lint0.rawValue]
        return !isEnabled || (lint0 & LocalVector.masked == 0 && lint0 >> 8 & 7 == 7)
    }

    mutating func acknowledge() -> UInt8? {
        // What is in service is not known: first that.
        guard !isEndDeferred, let vector = deliverable else { return nil }
        requested.remove(vector)
        inService.insert(vector)
        return vector
    }

    /// A fixed interrupt arrives (SDM vol. 3 §11.8.4).
    mutating func accept(_ vector: UInt8, isLevel: Bool, _ effects: inout Effects) {
        guard isEnabled, isSoftwareEnabled else { return }
        guard vector >= 16 else {
            record(APICLayout.receiveIllegalVector, &effects)
            return
        }
        requested.insert(vector)
        levelTriggered.set(vector, isLevel)
    }

    mutating func record(_ error: UInt32, _ effects: inout Effects) {
        pendingErrors |= error
        let entry = localVectors[LocalVector.error.rawValue]
        let vector = UInt8(truncatingIfNeeded: entry)
        // An illegal error vector is one more error, which is recorded already: no recursion.
        if entry & LocalVector.masked == 0, vector >= 16, isEnabled, isSoftwareEnabled {
            requested.insert(vector)
            levelTriggered.remove(vector)
        }
    }

    /// Whether the interrupt that was just acknowledged may end unheard: no level has to be looked at again,
    /// and nothing else waits for it, beneath or behind.
    mutating func deferEnd() -> Bool {
        guard requested.isEmpty, inService.count == 1, let vector = inService.highest,
            !levelTriggered.contains(vector)
        else { return false }
        isEndDeferred = true
        return true
    }

    var wantsEnd: Bool { isEndDeferred && !requested.isEmpty }

    mutating func endOfInterrupt(_ effects: inout Effects) {
        guard let vector = inService.highest else { return }
        inService.remove(vector)
        guard levelTriggered.contains(vector) else { return }
        if spuriousVector & APICLayout.suppressBroadcast == 0 { effects.endedVector = vector }
        endLocalLevel(vector, &effects)
    }

    /// A level-triggered fixed LINT pin asks again when it is still asserted.
    private mutating func endLocalLevel(_ vector: UInt8, _ effects: inout Effects) {
        for pin in 0..<2 {
            let index = LocalVector.lint0.rawValue + pin
            let entry = localVectors[index]
            guard entry & LocalVector.remoteRequest != 0, UInt8(truncatingIfNeeded: entry) == vector else {
                continue
            }
            localVectors[index] &= ~LocalVector.remoteRequest
            if pins[pin] { fire(index == 3 ? .lint0 : .lint1, &effects) }
        }
    }

    mutating func setPin(_ pin: Int, _ asserted: Bool, _ effects: inout Effects) {
        let rising = asserted && !pins[pin]
        pins[pin] = asserted
        if rising { fire(pin == 0 ? .lint0 : .lint1, &effects) }
    }

    /// Delivers through an entry of the local vector table.
    mutating func fire(_ source: LocalVector, _ effects: inout Effects) {
        let entry = localVectors[source.rawValue]
        guard isEnabled, entry & LocalVector.masked == 0 else { return }
        let hasMode = source != .timer && source != .error
        switch hasMode ? DeliveryMode(bits: entry >> 8) : .fixed {
        case .fixed:
            let isPin = source == .lint0 || source == .lint1
            let isLevel = isPin && entry & LocalVector.level != 0
            if isLevel { localVectors[source.rawValue] |= LocalVector.remoteRequest }
            accept(UInt8(truncatingIfNeeded: entry), isLevel: isLevel, &effects)
        case .nonMaskable: effects.nonMaskable = true
        case .initialize: effects.initialize = true
        // ExtINT is a level that `acceptsExternalInterrupt` answers; there is no SMM.
        case .external, .systemManagement, .lowestPriority, .reserved, .startup: break
        }
    }

    /// IA32_APIC_BASE: false where the processor raises #GP (SDM vol. 3 §11.12.5).
    mutating func setBase(_ value: UInt64, reservedAddressBits: UInt64) -> Bool {
        guard value & (APICBase.reserved & ~APICBase.bootstrapProcessor | reservedAddressBits) == 0 else {
            return false
        }
        let enable = value & APICBase.enable != 0
        let x2APIC = value & APICBase.x2APICEnable != 0
        if x2APIC && !enable { return false }
        if isX2APIC && enable && !x2APIC { return false }
        if !isEnabled && x2APIC { return false }
        let wasEnabled = isEnabled
        let entersX2APIC = x2APIC && !isX2APIC
        base = value
        if wasEnabled != enable { resetRegisters() }
        if entersX2APIC { command = 0 }
        return true
    }
}
