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

    /// What to wait for: what the visitor wants, and the next one, who takes the place of a silent one.
    var awaited: [Descriptor?] { isBusy ? [nil, nil] : [visitor, listener] }

    /// Some of `awaited` is ready.
    func serve(_ ready: ArraySlice<Bool>, _ machine: ControlSocket) {
        if ready.first == true {
            takeRequest(machine)
        } else if ready.last == true {
            answer(.discRefused("Somebody else asks for something at the same time: try it again."))
            visitor = try? listener.accept()
        }
    }

    private func takeRequest(_ machine: ControlSocket) {
        guard let visitor else { return }
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
