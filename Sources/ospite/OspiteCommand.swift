internal import ArgumentParser

/// The command line of Ospite.
@main
struct OspiteCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ospite",
        abstract: "Creates and runs virtual machines.",
        version: "0.1.0",
        subcommands: [
            RunCommand.self, ScreenshotCommand.self, TypeCommand.self, KeyCommand.self, DiscCommand.self,
        ])
}
