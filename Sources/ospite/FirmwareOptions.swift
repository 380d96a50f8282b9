internal import ArgumentParser
internal import MachineSpec

/// What starts the machine when there is no kernel.
struct FirmwareOptions: ParsableArguments {
    @Argument(help: "A disk image or the ISO image of a CD, to boot by the firmware.")
    var image: String?

    @Option(help: "The firmware: bios or uefi. (default without --kernel: bios)")
    var firmware: String?

    @Option(help: "The file of the UEFI's variables, made when it is missing. (default: kept for one run)")
    var uefiVars: String?

    @Option(help: "What the firmware boots first: disk, cd, floppy and net, with commas between them.")
    var boot: String?

    @Flag(help: "The firmware waits for Escape and lists what can be booted.")
    var bootMenu = false

    @Option(help: "A file for what the firmware says about itself.")
    var firmwareLog: String?

    @Option(help: "A file for the text on the screen when the machine ends.")
    var screenText: String?

    /// Where Debian's packages put the images.
    private enum Image {
        static let bios = "/usr/share/seabios/bios-256k.bin"
        static let video = "/usr/share/seabios/vgabios-stdvga.bin"
        /// The same for the identity of a virtio display.
        static let virtioVideo = "/usr/share/seabios/vgabios-virtio.bin"
        static let uefi = "/usr/share/OVMF/OVMF_CODE_4M.fd"
        static let uefiVariables = "/usr/share/OVMF/OVMF_VARS_4M.fd"
    }

    /// Opens the images and the files that go with them.
    func open(into files: inout OpenedFiles, video: VideoAdapter) throws(RunFailure) -> FirmwareSpec {
        let isUEFI = firmware == "uefi"
        var spec = FirmwareSpec(
            kind: isUEFI ? .uefi : .bios,
            image: isUEFI
                ? try files.addFirmware(Image.uefi, package: "ovmf")
                : try files.addFirmware(Image.bios, package: "seabios"),
            hasBootMenu: bootMenu)
        if isUEFI {
            spec.variables = try files.addVariables(uefiVars, template: Image.uefiVariables)
        } else {
            let image = video == .virtio ? Image.virtioVideo : Image.video
            spec.videoROM = try files.addFirmware(image, package: "seabios")
        }
        if let firmwareLog { spec.log = try files.addLog(firmwareLog, option: "--firmware-log") }
        if let screenText { spec.screenText = try files.addLog(screenText, option: "--screen-text") }
        return spec
    }
}
