internal import ScreenSurface

/// What one viewer knows of the screen, what it can take, and what it waits for. Pure.
struct ViewerView {
    var translator = PixelTranslator(.native)
    /// The first encoding of the viewer's list that we have.
    private(set) var encoding = RFBNumber.Encoding.raw
    private(set) var compression = 3
    /// JPEG's, 0 to 9; nil: none.
    private(set) var quality: Int?
    private(set) var hasCopy = false, hasDesktopSize = false, hasExtendedDesktopSize = false
    private(set) var hasName = false, hasExtendedKeys = false, hasPointerMotion = false
    private(set) var hasCursor = false, hasAlphaCursor = false
    private(set) var hasFence = false, hasContinuousUpdates = false
    /// An update may end with a word instead of after as many rectangles as it began with.
    private(set) var hasLastRectangle = false
    /// The viewer was told that it sends distances.
    var usesRelativePointer = false

    /// The size that the viewer was told.
    private(set) var width = 0, height = 0
    var isSizeNew = false
    /// To a wish for another size: its status.
    var sizeAnswer: UInt16?
    /// A size that the guest was told of.
    struct Wish: Equatable {
        var width: Int, height: Int
        /// This viewer's, or another's.
        var isOwn: Bool
    }
    var wish: Wish?
    private var abilities: ScreenAbilities = []
    /// The cursor that the viewer was given to draw itself.
    enum OwnCursor: Equatable {
        /// Its own arrow, or whatever it has.
        case none
        case invisible
        case shape(UInt32, hotX: Int, hotY: Int)
    }
    var ownCursor = OwnCursor.none
    /// Rectangles without pixels that say what we understand, each sent once.
    var greetings: Set<Int32> = []

    private(set) var damage = DamageRegion()
    private(set) var move: ScreenMove?
    private(set) var requested: ScreenRectangle?
    var continuous: ScreenRectangle?
    var needsFreshFrame = false
    /// Rectangles of the update that is being sent.
    var queue: [ScreenRectangle] = []
    /// That update ends with a word.
    var endsWithWord = false

    mutating func setEncodings(_ list: [Int32]) {
        typealias Encoding = RFBNumber.Encoding
        let known = [Encoding.raw, Encoding.hextile, Encoding.tight, Encoding.zrle]
        encoding = list.first(where: known.contains) ?? Encoding.raw
        compression = list.first(where: Encoding.compression.contains).map { Int($0 + 256) } ?? 3
        quality = list.first(where: Encoding.quality.contains).map { Int($0 + 32) }
        hasCopy = list.contains(Encoding.copyRectangle)
        hasDesktopSize = list.contains(Encoding.desktopSize)
        let (hadSize, hadName) = (hasExtendedDesktopSize, hasName)
        let (hadKeys, hadMotion) = (hasExtendedKeys, hasPointerMotion)
        hasExtendedDesktopSize = list.contains(Encoding.extendedDesktopSize)
        hasName = list.contains(Encoding.desktopName)
        hasExtendedKeys = list.contains(Encoding.extendedKey)
        hasPointerMotion = list.contains(Encoding.pointerMotion)
        takeCursors(list)
        hasFence = list.contains(Encoding.fence)
        hasLastRectangle = list.contains(Encoding.lastRectangle)
        hasContinuousUpdates = list.contains(Encoding.continuousUpdates)
        if !hasContinuousUpdates { continuous = nil }
        if hasExtendedDesktopSize, !hadSize { greetings.insert(Encoding.extendedDesktopSize) }
        if hasName, !hadName { greetings.insert(Encoding.desktopName) }
        if hasExtendedKeys, !hadKeys { greetings.insert(Encoding.extendedKey) }
        if hasPointerMotion, !hadMotion { greetings.insert(Encoding.pointerMotion) }
        if !hasPointerMotion { usesRelativePointer = false }
    }

    private mutating func takeCursors(_ list: [Int32]) {
        let (hadCursor, hadAlpha) = (hasCursor, hasAlphaCursor)
        hasCursor = list.contains(RFBNumber.Encoding.cursor)
        hasAlphaCursor = list.contains(RFBNumber.Encoding.alphaCursor)
        // Another kind is sent anew.
        if hadCursor != hasCursor || hadAlpha != hasAlphaCursor { ownCursor = .none }
    }

    /// Whether the cursor is a part of the picture for this viewer: it cannot draw one, or the guest's is not
    /// where its own pointer is, since the guest hears only how far that moves.
    var seesCursorInPicture: Bool {
        !(hasCursor || hasAlphaCursor) || !abilities.contains(.takesPositions)
    }

    /// The cursor that the viewer should draw.
    func wantedCursor(_ cursor: ScreenCursor?, shape: UInt32) -> OwnCursor {
        guard let cursor, !seesCursorInPicture else {
            // One that has drawn none keeps what it has.
            return ownCursor == .none ? .none : .invisible
        }
        return .shape(shape, hotX: cursor.hotX, hotY: cursor.hotY)
    }

    /// What the guest can do now.
    mutating func note(_ new: ScreenAbilities) {
        let isChanged = new.contains(.takesPositions) != abilities.contains(.takesPositions)
        abilities = new
        if isChanged, hasPointerMotion { greetings.insert(RFBNumber.Encoding.pointerMotion) }
    }

    /// What the viewer shows of the screen.
    var bounds: ScreenRectangle { ScreenRectangle(x: 0, y: 0, width: width, height: height) }
    var canResize: Bool { hasDesktopSize || hasExtendedDesktopSize }

    mutating func resize(_ width: Int, _ height: Int) {
        self.width = width
        self.height = height
        isSizeNew = false
        damage.clear()
        move = nil
        damage.add(bounds)
    }

    mutating func sizeHasChanged() {
        isSizeNew = true
        damage.add(bounds)
        move = nil
    }

    mutating func add(_ change: Framebuffer.Change) {
        let overlay = seesCursorInPicture ? change.cursorDamage : []
        // Something moves only on a screen that the viewer has as it was.
        if hasCopy, damage.isEmpty, queue.isEmpty, move == nil, !isSizeNew, let new = change.move,
            bounds.contains(new.rectangle), !(seesCursorInPicture && change.hasCursor)
        {
            move = new
            for part in change.rest { damage.add(part.intersection(bounds)) }
            return
        }
        giveUpMove()
        for part in change.damage + overlay { damage.add(part.intersection(bounds)) }
    }

    /// A part of the picture that is to be sent again.
    mutating func repaint(_ part: ScreenRectangle) {
        giveUpMove()
        damage.add(part.intersection(bounds))
    }

    /// Sends what moved as it looks now.
    private mutating func giveUpMove() {
        if let old = move { damage.add(old.rectangle) }
        move = nil
    }

    mutating func request(_ part: ScreenRectangle, isIncremental: Bool) {
        requested = requested.map { $0.union(part) } ?? part
        guard !isIncremental else { return }
        damage.add(part.intersection(bounds))
        needsFreshFrame = true
    }

    /// Where an update may be now; nil: nowhere.
    var wanted: ScreenRectangle? {
        guard let requested else { return continuous }
        return continuous.map { $0.union(requested) } ?? requested
    }

    /// What an update is to hold, which is then no damage any more.
    mutating func takeUpdate() -> (move: ScreenMove?, parts: [ScreenRectangle]) {
        guard let wanted else { return (nil, []) }
        if let move, !wanted.contains(move.rectangle) { giveUpMove() }
        let parts = damage.clipped(to: wanted).rectangles
        damage.subtract(wanted)
        defer {
            move = nil
            requested = nil
        }
        return (move, parts)
    }

    mutating func requestIsAnswered() { requested = nil }

    var hasNews: Bool {
        guard let wanted else { return false }
        return move != nil || !damage.clipped(to: wanted).isEmpty
    }
}
