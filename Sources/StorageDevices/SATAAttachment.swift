public import BlockStorage

/// What is plugged into a SATA port, or a place of an IDE channel.
public enum SATAAttachment: Sendable {
    /// `serial` has at most 20 ASCII characters.
    case disk(any BlockBackend, serial: String)
    case drive(CDTray)

    var device: any SATADevice {
        switch self {
        case .disk(let backend, let serial): ATADisk(backend, serial: serial)
        case .drive(let tray): ATAPIDrive(tray)
        }
    }

    var tray: CDTray? { if case .drive(let tray) = self { tray } else { nil } }
}
