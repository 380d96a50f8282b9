internal import ByteLayout
internal import Glibc
internal import LinuxHost
internal import MachineSpec

/// Our own viewer of a running machine's screen: what `ospite screenshot`, `type` and `key` speak through
/// (RFC 6143). It connects in the machine's folder, where no password is asked for.
final class ScreenClient {
    private static let patience: Int32 = 10_000
    private let socket: Descriptor
    private let machine: String
    private(set) var width = 0, height = 0

    init(machine: String) throws(RunFailure) {
        self.machine = machine
        do throws(SpecError) {
            _ = try MachineName(machine)
        } catch {
            throw .usage("There is no machine of the name '\(machine)'.")
        }
        do throws(HostError) {
            socket = try Descriptor.connect(unixPath: try RuntimeFolder.screenSocket(of: machine))
        } catch {
            guard error.code == ENOENT || error.code == ECONNREFUSED else {
                throw .host("The screen of \(machine) cannot be reached: \(error).")
            }
            throw .host(
                "No machine of the name \(machine) that shows its screen is running: start it with --name "
                    + "\(machine), and without --display none.")
        }
        try handshake()
    }

    private func handshake() throws(RunFailure) {
        _ = try receive(12)
        try send(Array("RFB 003.008\n".utf8))
        let types = try receive(Int(try receive(1)[0]))
        guard types.contains(1) else { throw failure("it asks for a password") }
        try send([1])
        guard try receive(4) == [0, 0, 0, 0] else { throw failure("it refuses us") }
        // Shared with others.
        try send([1])
        let start = try receive(24)
        width = Int(start[0]) << 8 | Int(start[1])
        height = Int(start[2]) << 8 | Int(start[3])
        _ = try receive(try length(start[20...]))
        // Raw pixels, and other sizes.
        let encodings: [Int32] = [0, -223]
        var message: [UInt8] = [2, 0]
        message.append(bigEndian: UInt16(encodings.count))
        for encoding in encodings { message.append(bigEndian: encoding) }
        try send(message)
    }

    private func length(_ bytes: ArraySlice<UInt8>) throws(RunFailure) -> Int {
        let length = bytes.reduce(0) { $0 << 8 | Int($1) }
        guard length <= 1 << 16 else { throw failure("it sends nonsense") }
        return length
    }

    /// The whole screen of now, XRGB8888.
    func capture() throws(RunFailure) -> [UInt32] {
        var pixels = [UInt32](repeating: 0, count: width * height), missing = width * height
        try request(width, height)
        while missing > 0 {
            let header = try receive(1)
            guard header[0] == 0 else { throw failure("it sends nonsense") }
            let count = try receive(3)
            for _ in 0..<(Int(count[1]) << 8 | Int(count[2])) {
                let head = try receive(12)
                let numbers = stride(from: 0, to: 8, by: 2).map { Int(head[$0]) << 8 | Int(head[$0 + 1]) }
                if head[8...] == [0xFF, 0xFF, 0xFF, 0x21] {
                    (width, height) = (numbers[2], numbers[3])
                    pixels = [UInt32](repeating: 0, count: width * height)
                    missing = width * height
                    try request(width, height)
                    continue
                }
                guard head[8...] == [0, 0, 0, 0], numbers[0] + numbers[2] <= width,
                    numbers[1] + numbers[3] <= height
                else { throw failure("it sends nonsense") }
                let bytes = try receive(numbers[2] * numbers[3] * 4)
                for place in 0..<numbers[2] * numbers[3] {
                    let (y, x) = place.quotientAndRemainder(dividingBy: max(numbers[2], 1))
                    pixels[(numbers[1] + y) * width + numbers[0] + x] =
                        (bytes.load(littleEndian: UInt32.self, at: place * 4) ?? 0) & 0xFF_FFFF
                }
                missing -= numbers[2] * numbers[3]
            }
        }
        return pixels
    }

    private func request(_ width: Int, _ height: Int) throws(RunFailure) {
        var message: [UInt8] = [3, 0, 0, 0, 0, 0]
        message.append(bigEndian: UInt16(width))
        message.append(bigEndian: UInt16(height))
        try send(message)
    }

    /// A character's key, as its symbol.
    func key(symbol: UInt32, isDown: Bool) throws(RunFailure) {
        var message: [UInt8] = [4, isDown ? 1 : 0, 0, 0]
        message.append(bigEndian: symbol)
        try send(message)
    }

    /// A key of the keyboard, by its number.
    func key(code: UInt8, isDown: Bool) throws(RunFailure) {
        var message: [UInt8] = [255, 0, 0, isDown ? 1 : 0, 0, 0, 0, 0]
        message.append(bigEndian: UInt32(code))
        try send(message)
    }

    /// Returns once the machine has got everything that was sent.
    func finish() throws(RunFailure) { _ = try capture() }

    // MARK: Bytes

    private func failure(_ what: String) -> RunFailure {
        .host("The screen of \(machine) cannot be used: \(what).")
    }

    private func send(_ bytes: [UInt8]) throws(RunFailure) {
        do throws(HostError) {
            try socket.writeAll(bytes)
        } catch {
            throw failure("\(error)")
        }
    }

    private func receive(_ count: Int) throws(RunFailure) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(count)
        do throws(HostError) {
            while result.count < count {
                guard try socket.wait(forWriting: false, milliseconds: Self.patience) else {
                    throw HostError("it does not answer", code: 0)
                }
                var buffer = [UInt8](repeating: 0, count: min(count - result.count, 1 << 18))
                guard case .moved(let moved) = try socket.read(into: &buffer) else {
                    throw HostError("it has gone", code: 0)
                }
                result += buffer.prefix(moved)
            }
        } catch {
            throw failure("\(error)")
        }
        return result
    }
}
