import DeviceModel

extension LocalAPIC {
    /// The registers of a local APIC. Times are machine nanoseconds.
    public struct Saved: Codable, Sendable, Equatable {
        var base: UInt64
        var requested: [UInt64]
        var inService: [UInt64]
        var levelTriggered: [UInt64]
        var taskPriority: UInt8
        var logicalDestination: UInt32
        var destinationFormat: UInt32
        var spuriousVector: UInt32
        var errorStatus: UInt32
        var pendingErrors: UInt32
        var command: UInt64
        var localVectors: [UInt32]
        var pins: [Bool]
        var initialCount: UInt32
        var divideConfiguration: UInt32
        var deadline: UInt64?
        var lastExpiry: UInt64
        var tscDeadline: UInt64
        /// NMI, INIT and SIPI bits with the SIPI vector in bits 15..8.
        var signals: UInt32

        init(_ state: LocalAPICState, signals: UInt32) {
            base = state.base
            requested = state.requested.saved
            inService = state.inService.saved
            levelTriggered = state.levelTriggered.saved
            taskPriority = state.taskPriority
            logicalDestination = state.logicalDestination
            destinationFormat = state.destinationFormat
            spuriousVector = state.spuriousVector
            errorStatus = state.errorStatus
            pendingErrors = state.pendingErrors
            command = state.command
            localVectors = (0..<6).map { state.localVectors[$0] }
            pins = [state.pins[0], state.pins[1]]
            initialCount = state.timer.initialCount
            divideConfiguration = state.timer.divideConfiguration
            deadline = state.timer.deadline
            lastExpiry = state.timer.lastExpiry
            tscDeadline = state.timer.tscDeadline
            self.signals = signals
        }

        /// The checked state.
        func state(identifier: UInt32) throws(RestoreError) -> LocalAPICState {
            func check(_ condition: Bool, _ reason: String) throws(RestoreError) {
                if !condition { throw RestoreError(LocalAPIC.kind, reason) }
            }
            let enabled = base & APICBase.enable != 0
            let x2APIC = base & APICBase.x2APICEnable != 0
            try check(
                base & APICBase.reserved & ~APICBase.bootstrapProcessor == 0, "reserved bits of the base")
            try check(enabled || !x2APIC, "x2APIC mode of a disabled APIC")
            for set in [requested, inService, levelTriggered] {
                try check(set.count == 4 && set[0] & 0xFFFF == 0, "a vector set")
            }
            try check(localVectors.count == 6 && pins.count == 2, "the local vector table")
            for (kind, entry) in zip(LocalVector.allCases, localVectors) {
                let legal = kind.writable | LocalVector.remoteRequest
                try check(entry & ~legal == 0, "a local vector")
            }
            try check(spuriousVector & ~APICLayout.spuriousWritable == 0, "the spurious vector")
            try check(logicalDestination & 0xFF_FFFF == 0, "the logical destination")
            try check(destinationFormat & 0x0FFF_FFFF == 0x0FFF_FFFF, "the destination format")
            try check((errorStatus | pendingErrors) & ~0xE0 == 0, "the error status")
            let low = UInt32(truncatingIfNeeded: command)
            try check(low & ~APICLayout.commandWritable == 0, "the interrupt command")
            try check(x2APIC || command >> 32 & 0xFF_FFFF == 0, "the interrupt destination")
            try check(divideConfiguration & ~0xB == 0, "the divide configuration")
            try check(signals & ~0xFF07 == 0 && (signals & 4 != 0 || signals >> 8 == 0), "the signals")
            return unchecked(identifier: identifier)
        }

        private func unchecked(identifier: UInt32) -> LocalAPICState {
            var state = LocalAPICState(identifier: identifier)
            state.base = base
            state.requested.saved = requested
            state.inService.saved = inService
            state.levelTriggered.saved = levelTriggered
            state.taskPriority = taskPriority
            state.logicalDestination = logicalDestination
            state.destinationFormat = destinationFormat
            state.spuriousVector = spuriousVector
            state.errorStatus = errorStatus
            state.pendingErrors = pendingErrors
            state.command = command
            for index in 0..<6 { state.localVectors[index] = localVectors[index] }
            state.pins[0] = pins[0]
            state.pins[1] = pins[1]
            state.timer.initialCount = initialCount
            state.timer.divideConfiguration = divideConfiguration
            state.timer.deadline = deadline
            state.timer.lastExpiry = lastExpiry
            state.timer.tscDeadline = tscDeadline
            return state
        }
    }
}
