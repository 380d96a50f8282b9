/// Numbers of VIRTIO 1.3 §5.6 that are not SCSI's.
enum VirtioSCSIQueue {
    static let control = 0, events = 1, requests = 2
}

/// struct virtio_scsi_config, §5.6.4.
enum VirtioSCSIConfig {
    static let queues = 0, segments = 4, sectors = 8, commandsPerUnit = 12, eventSize = 16, senseSize = 20
    static let packetSize = 24, channel = 28, target = 30, unit = 32
    static let size = 36
}

/// What precedes the data of a request, §5.6.6.1: address of the unit, tag, attributes, packet; and of its
/// answer: sense length, residual count, status qualifier, status, response, sense data.
enum VirtioSCSIRequest {
    static let packet = 19, senseSize = 96, packetSize = 32
    static let residual = 4, status = 10, response = 11, sense = 12
    static let answerSize = 12
}

enum VirtioSCSIResponse {
    static let ok: UInt8 = 0, overrun: UInt8 = 1, badTarget: UInt8 = 3, failure: UInt8 = 9
    static let functionComplete: UInt8 = 0, functionRejected: UInt8 = 11, incorrectUnit: UInt8 = 12
}

/// Control requests, §5.6.6.2.
enum VirtioSCSIControl {
    static let taskManagement: UInt32 = 0, query: UInt32 = 1, subscribe: UInt32 = 2
    /// Subtypes: abort task, abort task set, clear ACA, clear task set, nexus reset, unit reset, query task,
    /// query task set.
    static let clearACA: UInt32 = 2, last: UInt32 = 7
    static let taskManagementSize = 24
}
