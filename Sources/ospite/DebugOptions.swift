internal import ArgumentParser
internal import LinuxHost
internal import MachineSpec

/// Options of `ospite run` about a debugger.
struct DebugOptions: ParsableArguments {
    @Option(help: "Let gdb connect: HOST:PORT of this host, as localhost:1234, or unix:PATH.")
    var gdb: String?

    @Flag(help: "The machine does not run before gdb says so.")
    var gdbWait = false

    /// Where to listen; nil: no debugger.
    func place() throws(SpecError) -> ViewerPlace? {
        guard let gdb else {
            guard !gdbWait else { throw SpecError("--gdb-wait goes with --gdb.") }
            return nil
        }
        let place = try ViewerPlace(parsing: gdb, option: "--gdb")
        if case .network(let host, let port) = place {
            guard let address = NetworkAddress(host: host, port: port) else {
                throw SpecError("--gdb: '\(host)' is no address: give it in numbers, or localhost.")
            }
            guard address.isLoopback else {
                throw SpecError(
                    "--gdb at \(address) would hand the machine to other hosts: use localhost and a tunnel.")
            }
        }
        return place
    }
}
