import Testing

/// Every suite that runs whole machines belongs in here, as an extension: they run one after the other, since
/// each takes a whole core, and each machine is a child process.
@Suite(.serialized) enum BootTests {}
