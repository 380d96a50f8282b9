internal import CLinux
internal import Glibc
internal import LinuxHost
internal import MachineControl

/// The two threads that belong to the owner of a machine: one waits for its death, one reads its commands.
/// They are apart so that a command that takes long never keeps a machine alive without an owner.
enum OwnerThreads {
    /// Ends the process when the lifetime descriptor ends. Status 1: nobody is left to read it.
    static func watchLifetime() throws(HostError) {
        _ = try HostThread(name: "lifetime") {
            var byte: UInt8 = 0
            while true {
                // SAFETY: one byte of our own.
                let count = unsafe read(InheritedDescriptor.lifetime, &byte, 1)
                if count > 0 || (count < 0 && ospite_get_errno() == EINTR) { continue }
                _exit(1)
            }
        }
    }

    /// Hands each command to `commands`. Ends when the owner closes its end; the machine goes on.
    static func readCommands(
        from control: ControlSocket, into commands: CommandInbox,
        tell: @escaping @Sendable (MachineReport) -> Void
    ) throws(HostError) {
        _ = try HostThread(name: "control") {
            while let (frame, descriptor) = try? control.receiveWithDescriptor() {
                do throws(WireError) {
                    commands.deliver(try MachineCommand(frame: frame), descriptor)
                } catch {
                    tell(.notice("A command was refused: \(error)."))
                }
            }
        }
    }
}
