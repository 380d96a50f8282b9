internal import ByteLayout
internal import Glibc
public import LinuxHost

/// What the guest can do now beyond what every guest can.
public struct ScreenAbilities: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// It hears of a wish for another size of its screen.
    public static let takesSizes = ScreenAbilities(rawValue: 1 << 0)
    /// It hears where the pointer is; without that only how far it moves.
    public static let takesPositions = ScreenAbilities(rawValue: 1 << 1)
    static let known: ScreenAbilities = [.takesSizes, .takesPositions]
}

/// What a machine tells the process that shows its screen.
public struct ScreenFrame: Equatable, Sendable {
    public var width: Int, height: Int
    public var damage: [ScreenRectangle]
    public var abilities: ScreenAbilities
    /// Not a part of the picture; nil: the guest shows none, or draws it itself.
    public var cursor: ScreenCursorNews?

    public init(
        width: Int, height: Int, damage: [ScreenRectangle], abilities: ScreenAbilities = [],
        cursor: ScreenCursorNews? = nil
    ) {
        self.width = width
        self.height = height
        self.damage = damage
        self.abilities = abilities
        self.cursor = cursor
    }
}

/// What the process that shows a machine's screen asks of the machine.
public enum ScreenRequest: Equatable, Sendable {
    /// Draw what has changed since the last frame and send one frame: as soon as there is something, or
    /// `promptly`, whether there is something or not.
    case refresh(promptly: Bool)
    /// A key by the number that `KeyCode` of the keyboard controller takes.
    case key(UInt8, isDown: Bool)
    /// The pointer moves, or a button or the wheel does.
    case move(ScreenMovement)
    /// Somebody would like the screen to have this size, in pixels.
    case resize(width: UInt16, height: UInt16)
}

/// What a viewer's pointer does: for a mouse how far it moves, and for a tablet where it is.
public struct ScreenMovement: Equatable, Sendable {
    public var right: Int32, down: Int32
    /// Steps towards the user.
    public var wheel: Int32
    /// Left, right and middle in bits 0 to 2; two more in 3 and 4.
    public var buttons: UInt8
    /// From the left edge of the screen and from the top, in parts of 65,535; nil: nobody knows.
    public var place: ScreenPlace?

    public init(
        right: Int32 = 0, down: Int32 = 0, wheel: Int32 = 0, buttons: UInt8 = 0, place: ScreenPlace? = nil
    ) {
        self.right = right
        self.down = down
        self.wheel = wheel
        self.buttons = buttons
        self.place = place
    }
}

public struct ScreenPlace: Hashable, Sendable {
    public var x: UInt16, y: UInt16
    public init(x: UInt16, y: UInt16) {
        self.x = x
        self.y = y
    }
}

/// The messages between a machine and the process that shows its screen, little-endian, one a packet:
///
///     frame     1, abilities, le16 width, le16 height, le16 count, then le16 x, y, width, height for each
///               rectangle; then, if there is a cursor, le32 shape, le16 width, height, hotX, hotY,
///               left, top, the last two signed
///     refresh   16, promptly
///     key       17, code, down
///     move      18, buttons, le32 right, le32 down, le32 wheel; then le16 x, le16 y, or nothing
///     resize    19, 0, le16 width, le16 height
///
/// The pixels of a frame stay as they are until the next request for one. Neither side trusts the other.
public enum ScreenLink {
    private enum Kind {
        static let frame: UInt8 = 1, refresh: UInt8 = 16, key: UInt8 = 17, move: UInt8 = 18
        static let resize: UInt8 = 19
    }
    /// The longest message in bytes.
    public static let longest = 8 + 8 * DamageRegion.mostRectangles + cursorSize
    private static let cursorSize = 16

    public static func bytes(_ frame: ScreenFrame) -> [UInt8] {
        var bytes: [UInt8] = [Kind.frame, frame.abilities.rawValue]
        let damage = frame.damage.prefix(DamageRegion.mostRectangles)
        for value in [frame.width, frame.height, damage.count] {
            bytes.append(littleEndian: UInt16(truncatingIfNeeded: value))
        }
        for part in damage {
            for value in [part.x, part.y, part.width, part.height] {
                bytes.append(littleEndian: UInt16(truncatingIfNeeded: value))
            }
        }
        guard let cursor = frame.cursor else { return bytes }
        bytes.append(littleEndian: cursor.shape)
        for value in [cursor.width, cursor.height, cursor.hotX, cursor.hotY] {
            bytes.append(littleEndian: UInt16(truncatingIfNeeded: value))
        }
        for value in [cursor.left, cursor.top] { bytes.append(littleEndian: Int16(clamping: value)) }
        return bytes
    }

    /// Nil for what is no frame, or one of a size that no surface or cursor has. Rectangles are cut to the
    /// screen.
    public static func frame(_ bytes: [UInt8]) -> ScreenFrame? {
        func word(_ place: Int) -> Int? { bytes.load(littleEndian: UInt16.self, at: place).map { Int($0) } }
        guard bytes.first == Kind.frame, let width = word(2), let height = word(4), let count = word(6),
            SurfaceMemory.fits(width: width, height: height), count <= DamageRegion.mostRectangles,
            bytes.count == 8 + 8 * count || bytes.count == 8 + 8 * count + cursorSize
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
        let abilities = ScreenAbilities(rawValue: bytes[1]).intersection(.known)
        var frame = ScreenFrame(width: width, height: height, damage: damage, abilities: abilities)
        if bytes.count > 8 + 8 * count {
            guard let cursor = cursor(bytes, at: 8 + 8 * count) else { return nil }
            frame.cursor = cursor
        }
        return frame
    }

    private static func cursor(_ bytes: [UInt8], at start: Int) -> ScreenCursorNews? {
        let fields = (0..<6).compactMap { bytes.load(littleEndian: UInt16.self, at: start + 4 + 2 * $0) }
        guard fields.count == 6, let shape = bytes.load(littleEndian: UInt32.self, at: start) else {
            return nil
        }
        let cursor = ScreenCursorNews(
            shape: shape, width: Int(fields[0]), height: Int(fields[1]), hotX: Int(fields[2]),
            hotY: Int(fields[3]), left: Int(Int16(bitPattern: fields[4])),
            top: Int(Int16(bitPattern: fields[5])))
        return cursor.isPossible ? cursor : nil
    }

    public static func bytes(_ request: ScreenRequest) -> [UInt8] {
        switch request {
        case .refresh(let promptly): return [Kind.refresh, promptly ? 1 : 0]
        case .key(let code, let isDown): return [Kind.key, code, isDown ? 1 : 0]
        case .move(let movement):
            var bytes: [UInt8] = [Kind.move, movement.buttons]
            for value in [movement.right, movement.down, movement.wheel] {
                bytes.append(littleEndian: value)
            }
            guard let place = movement.place else { return bytes }
            for value in [place.x, place.y] { bytes.append(littleEndian: value) }
            return bytes
        case .resize(let width, let height):
            var bytes: [UInt8] = [Kind.resize, 0]
            for value in [width, height] { bytes.append(littleEndian: value) }
            return bytes
        }
    }

    /// Nil for what is no request.
    public static func request(_ bytes: [UInt8]) -> ScreenRequest? {
        switch (bytes.first, bytes.count) {
        case (Kind.refresh, 2): return .refresh(promptly: bytes[1] != 0)
        case (Kind.key, 3): return .key(bytes[1], isDown: bytes[2] != 0)
        case (Kind.move, 14), (Kind.move, 18):
            guard let right = bytes.load(littleEndian: Int32.self, at: 2),
                let down = bytes.load(littleEndian: Int32.self, at: 6),
                let wheel = bytes.load(littleEndian: Int32.self, at: 10)
            else { return nil }
            var movement = ScreenMovement(right: right, down: down, wheel: wheel, buttons: bytes[1])
            if let x = bytes.load(littleEndian: UInt16.self, at: 14),
                let y = bytes.load(littleEndian: UInt16.self, at: 16)
            {
                movement.place = ScreenPlace(x: x, y: y)
            }
            return .move(movement)
        case (Kind.resize, 6):
            guard let width = bytes.load(littleEndian: UInt16.self, at: 2),
                let height = bytes.load(littleEndian: UInt16.self, at: 4)
            else { return nil }
            return .resize(width: width, height: height)
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
