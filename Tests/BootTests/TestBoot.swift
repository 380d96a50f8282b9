/// A machine that boots Scripts/guest/test-init: what to give to `ospite run`.
struct TestBoot {
    var kernel = InstalledKernel.cloud
    /// What the guest does: a name that Scripts/guest/test-init knows.
    var test: String
    /// pc or micro.
    var machine = "pc"
    var cpus = 1
    var memory = "256M"
    var disk: String?
    /// One more program in the guest's /bin.
    var program: String?
    /// What drives `device`.
    var modules: [String] = []
    /// Further words of the kernel's command line.
    var words = ""

    func initialRAMDisk() throws -> String {
        try BootAssets.initialRAMDisk(kernel, modules: modules, addition: program)
    }

    /// The accelerator is named, so that a host with KVM tests the software CPU, too.
    func arguments() throws -> [String] {
        var arguments = [
            "--accel", "soft", "--machine", machine, "--no-reboot", "--stats", "--cpus", "\(cpus)",
            "--memory", memory,
            "--kernel", kernel.path, "--initrd", try initialRAMDisk(),
            "--append", "console=ttyS0 quiet panic=-1 ospite.test=\(test) \(words)",
        ]
        if let disk { arguments += ["--disk", disk] }
        return arguments
    }

    func start(in folder: ScratchFolder, patience: Double = GuestMachine.patience) throws -> GuestMachine {
        try GuestMachine(arguments(), in: folder, patience: patience)
    }
}
