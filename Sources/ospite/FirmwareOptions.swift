internal import ArgumentParser

/// What starts the machine when there is no kernel.
struct FirmwareOptions: ParsableArguments {
    @Argument(help: "A disk image or the ISO image of a CD, to boot by the firmware.")
    var image: String?

    @Option(help: "The firmware: bios. (default with IMAGE or without --kernel: bios)")
    var firmware: String?

    @Flag(help: "The firmware waits for Escape and lists what can be booted.")
    var bootMenu = false

    @Option(help: "A file for what the firmware says about itself.")
    var firmwareLog: String?

    @Option(help: "A file for the text on the screen when the machine ends.")
    var screenText: String?

    /// Where Debian's package puts the images.
    static let biosImage = "/usr/share/seabios/bios-256k.bin"
    static let videoImage = "/usr/share/seabios/vgabios-stdvga.bin"
}
