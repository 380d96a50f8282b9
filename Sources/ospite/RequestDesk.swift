internal import Glibc
internal import LinuxHost
internal import MachineControl

/// Where other programs of this user ask for something of a running machine, on a socket in its folder: one
/// at a time, who is passed on to the machine with the descriptor that came along, and gets its answer.
/// Confinement: the main thread.
final class RequestDesk {
    private let listener: Descriptor
    private var visitor: Descriptor?
    /// The machine has the visitor's request, and has not answered yet.
    private var isBusy = false

    init(_ listener: Descriptor) { self.listener = listener }

    /// What to wait for: the next visitor, or what this one wants.
    var awaited: Descriptor? { isBusy ? nil : visitor ?? listener }

    /// `awaited` is ready.
    func serve(_ machine: ControlSocket) {
        guard let visitor else {
            visitor = try? listener.accept()
            return
        }
        // Who sends half a frame, or leaves, is refused as whoever sends nonsense.
        guard let message = try? DescriptorPassing.receive(from: visitor, byteLimit: 4096, limit: 1),
            let command = try? MachineCommand(frame: message.bytes)
        else { return answer(.discRefused("The request is none that this ospite understands.")) }
        do throws(HostError) {
            switch (command, message.descriptors.first) {
            case (.insertDisc, let disc?): try machine.send(command.frame, disc)
            case (.ejectDisc, nil): try machine.send(command.frame)
            default: return answer(.discRefused("The request is none for a machine that runs."))
            }
            isBusy = true
        } catch {
            answer(.discRefused("The machine cannot be told: \(error)."))
        }
    }

    /// The visitor may have left meanwhile.
    func answer(_ report: MachineReport) {
        _ = try? visitor?.write(report.frame[...])
        visitor = nil
        isBusy = false
    }
}
