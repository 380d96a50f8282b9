/// A device of the guest that takes positions of a pointer, such as a tablet. Any thread.
public protocol PointerTarget: AnyObject, Sendable {
    /// Whether the guest has a driver that reads it.
    var isListening: Bool { get }
    /// - Parameters:
    ///   - x, y: of the way from the left edge of the screen to the right, and from the top to the bottom, in
    ///     parts of 65,535.
    ///   - buttons: left, right and middle in bits 0 to 2; side buttons in 3 and 4.
    ///   - wheel: steps towards the user.
    func point(x: UInt16, y: UInt16, buttons: UInt8, wheel: Int32)
}

/// A device of the guest that takes keys. Any thread.
public protocol KeyTarget: AnyObject, Sendable {
    /// Whether the guest has a driver that reads it.
    var isListening: Bool { get }
    /// A key goes down, again when it is held, or up; by its code of set 1, with bit 7 for those with a
    /// prefix.
    func key(code: UInt8, isDown: Bool)
}
