internal import ByteLayout
internal import Glibc
public import LinuxHost

/// What a machine tells the process that shows its screen.
public struct ScreenFrame: Equatable, Sendable {
    public var width: Int, height: Int
    public var damage: [ScreenRectangle]

    public init(width: Int, height: Int, damage: [ScreenRectangle]) {
        self.width = width
        self.height = height
        self.damage = damage
    }
}

/// A place on the screen, from the top left corner: 0 to 32767 each way, whatever the size of the picture.
public struct ScreenPosition: Equatable, Sendable {
    public static let largest: UInt16 = 32_767
    public var x: UInt16, y: UInt16

    /// Larger numbers are the far edge.
    public init(x: UInt16, y: UInt16) {
        self.x = min(x, Self.largest)
        self.y = min(y, Self.largest)
    }
}

/// What a machine says to the process that shows its screen.
public enum ScreenReport: Equatable, Sendable {
    case frame(ScreenFrame)
    /// The guest wants to know where the pointer is, rather than how far it moved.
    case pointer(isAbsolute: Bool)
}

/// What the process that shows a machine's screen asks of the machine.
public enum ScreenRequest: Equatable, Sendable {
    /// Draw what has changed since the last frame and send one frame: as soon as there is something, or
    /// `promptly`, whether there is something or not.
    case refresh(promptly: Bool)
    /// A key by the number that `KeyCode` of the keyboard controller takes.
    case key(UInt8, isDown: Bool)
    /// Right, down, wheel steps towards the user; buttons left, right, middle, two more; and where the
    /// pointer is, if that is known.
    case move(right: Int32, down: Int32, wheel: Int32, buttons: UInt8, position: ScreenPosition?)
}

/// The messages between a machine and the process that shows its screen, little-endian, one a packet:
///
///     frame     1, 0, le16 width, le16 height, le16 count, then le16 x, y, width, height for each rectangle
///     refresh   16, promptly
///     key       17, code, down
///     pointer   2, absolute
///     move      18, buttons, le32 right, le32 down, le32 wheel, le16 x, le16 y; FFFFh for an unknown place
///
/// The pixels of a frame stay as they are until the next request for one. Neither side trusts the other.
public enum ScreenLink {
    private enum Kind {
        static let frame: UInt8 = 1, pointer: UInt8 = 2
        static let refresh: UInt8 = 16, key: UInt8 = 17, move: UInt8 = 18
    }
    private static let unknownPlace: UInt16 = 0xFFFF
    /// The longest message in bytes.
    public static let longest = 8 + 8 * DamageRegion.mostRectangles

    public static func bytes(_ report: ScreenReport) -> [UInt8] {
        switch report {
        case .frame(let frame): bytes(frame)
        case .pointer(let isAbsolute): [Kind.pointer, isAbsolute ? 1 : 0]
        }
    }

    private static func bytes(_ frame: ScreenFrame) -> [UInt8] {
        var bytes: [UInt8] = [Kind.frame, 0]
        let damage = frame.damage.prefix(DamageRegion.mostRectangles)
        for value in [frame.width, frame.height, damage.count] {
            bytes.append(littleEndian: UInt16(truncatingIfNeeded: value))
        }
        for part in damage {
            for value in [part.x, part.y, part.width, part.height] {
                bytes.append(littleEndian: UInt16(truncatingIfNeeded: value))
            }
        }
        return bytes
    }

    /// Nil for what is no report, or a frame of a size that no surface has. Rectangles are cut to the screen.
    public static func report(_ bytes: [UInt8]) -> ScreenReport? {
        if bytes.first == Kind.pointer, bytes.count == 2 { return .pointer(isAbsolute: bytes[1] != 0) }
        return frame(bytes).map { .frame($0) }
    }

    private static func frame(_ bytes: [UInt8]) -> ScreenFrame? {
        func word(_ place: Int) -> Int? { bytes.load(littleEndian: UInt16.self, at: place).map { Int($0) } }
        guard bytes.first == Kind.frame, let width = word(2), let height = word(4), let count = word(6),
            SurfaceMemory.fits(width: width, height: height), count <= DamageRegion.mostRectangles,
            bytes.count == 8 + 8 * count
        else { return nil }
        let screen = ScreenRectangle(x: 0, y: 0, width: width, height: height)
        var damage: [ScreenRectangle] = []
        for index in 0..<count {
            let place = 8 + 8 * index
            guard let x = word(place), let y = word(place + 2), let width = word(place + 4),
                let height = word(place + 6)
            else { return nil }
            let part = ScreenRectangle(x: x, y: y, width: width, height: height).intersection(screen)
            if !part.isEmpty { damage.append(part) }
        }
        return ScreenFrame(width: width, height: height, damage: damage)
    }

    public static func bytes(_ request: ScreenRequest) -> [UInt8] {
        switch request {
        case .refresh(let promptly): return [Kind.refresh, promptly ? 1 : 0]
        case .key(let code, let isDown): return [Kind.key, code, isDown ? 1 : 0]
        case .move(let right, let down, let wheel, let buttons, let position):
            var bytes: [UInt8] = [Kind.move, buttons]
            for value in [right, down, wheel] { bytes.append(littleEndian: value) }
            bytes.append(littleEndian: position?.x ?? unknownPlace)
            bytes.append(littleEndian: position?.y ?? unknownPlace)
            return bytes
        }
    }

    /// Nil for what is no request.
    public static func request(_ bytes: [UInt8]) -> ScreenRequest? {
        switch (bytes.first, bytes.count) {
        case (Kind.refresh, 2): return .refresh(promptly: bytes[1] != 0)
        case (Kind.key, 3): return .key(bytes[1], isDown: bytes[2] != 0)
        case (Kind.move, 18):
            guard let right = bytes.load(littleEndian: Int32.self, at: 2),
                let down = bytes.load(littleEndian: Int32.self, at: 6),
                let wheel = bytes.load(littleEndian: Int32.self, at: 10),
                let x = bytes.load(littleEndian: UInt16.self, at: 14),
                let y = bytes.load(littleEndian: UInt16.self, at: 16)
            else { return nil }
            return .move(
                right: right, down: down, wheel: wheel, buttons: bytes[1],
                position: x == unknownPlace ? nil : ScreenPosition(x: x, y: y))
        default: return nil
        }
    }
}

/// One end of the connection between a machine and the process that shows its screen.
public final class ScreenSocket: Sendable {
    public let descriptor: Descriptor

    /// Takes over a sequenced-packet socket and makes it non-blocking.
    public init(_ descriptor: Descriptor) throws(HostError) {
        try descriptor.setNonBlocking(true)
        self.descriptor = descriptor
    }

    /// Sends one message; false when there is no room or nobody.
    @discardableResult
    public func send(_ message: [UInt8]) -> Bool {
        // SAFETY: the array's own bytes and count.
        unsafe message.withUnsafeBytes { bytes in
            unsafe Glibc.send(
                descriptor.number, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
        }
    }

    public enum Arrival: Equatable, Sendable { case message([UInt8]), nothing, closed }

    /// The next message, cut to what one may have.
    public func receive() -> Arrival {
        var buffer = [UInt8](repeating: 0, count: ScreenLink.longest)
        // SAFETY: the kernel writes at most the buffer's own count.
        let count = unsafe buffer.withUnsafeMutableBytes { bytes in
            unsafe recv(descriptor.number, bytes.baseAddress, bytes.count, 0)
        }
        if count > 0 { return .message(Array(buffer.prefix(count))) }
        if count == 0 { return .closed }
        let code = HostError.last("").code
        return code == EAGAIN || code == EINTR ? .nothing : .closed
    }
}
