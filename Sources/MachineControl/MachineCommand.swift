public import MachineSpec

/// What an owner asks of a running machine.
public enum MachineCommand: Equatable, Sendable {
    /// The first frame: what to build, from how many descriptors.
    case configure(MachineSpec, resourceCount: Int)
    /// Presses the ACPI power button.
    case powerButton
    /// Ends the machine now, without asking the guest.
    case stop
    case pause
    case resume
    /// Puts a disc into a CD drive, counted from 0. The image's descriptor comes with the frame.
    case insertDisc(drive: UInt8)
    /// Takes the disc out of it.
    case ejectDisc(drive: UInt8)

    public var frame: [UInt8] {
        switch self {
        case .configure(let spec, let resourceCount):
            var writer = WireWriter()
            writer.put(UInt8(clamping: resourceCount))
            spec.write(to: &writer)
            return Wire.frame(kind: Wire.Kind.configure, payload: writer.bytes)
        case .powerButton: return Wire.frame(kind: Wire.Kind.powerButton)
        case .stop: return Wire.frame(kind: Wire.Kind.stop)
        case .pause: return Wire.frame(kind: Wire.Kind.pause)
        case .resume: return Wire.frame(kind: Wire.Kind.resume)
        case .insertDisc(let drive): return Wire.frame(kind: Wire.Kind.insertDisc, payload: [drive])
        case .ejectDisc(let drive): return Wire.frame(kind: Wire.Kind.ejectDisc, payload: [drive])
        }
    }

    /// Reads one frame; a description inside it has passed `MachineSpec.validate`.
    public init(frame: [UInt8]) throws(WireError) {
        var (kind, payload) = try Wire.open(frame)
        switch kind {
        case Wire.Kind.configure:
            let resourceCount = Int(try payload.take(UInt8.self))
            let spec = try MachineSpec(reading: &payload)
            do throws(SpecError) {
                try spec.validate(resourceCount: resourceCount)
            } catch {
                throw WireError(error.description)
            }
            self = .configure(spec, resourceCount: resourceCount)
        case Wire.Kind.powerButton: self = .powerButton
        case Wire.Kind.stop: self = .stop
        case Wire.Kind.pause: self = .pause
        case Wire.Kind.resume: self = .resume
        case Wire.Kind.insertDisc: self = .insertDisc(drive: try payload.take(UInt8.self))
        case Wire.Kind.ejectDisc: self = .ejectDisc(drive: try payload.take(UInt8.self))
        default: throw WireError("there is no command \(kind)")
        }
        try payload.finish()
    }
}
