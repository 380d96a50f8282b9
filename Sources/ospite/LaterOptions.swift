internal import ArgumentParser

/// Options whose names are settled and that this version does not have yet: each is refused by name, so that
/// nobody runs a machine that lacks what was asked for.
struct LaterOptions: ParsableArguments {
    @Option(help: .hidden)
    var control: String?

    /// The sentence for the first option that is not there yet.
    var refusal: String? {
        if control != nil { return "This version has no control socket of its own yet: leave out --control." }
        return nil
    }
}
