internal import ByteLayout
internal import ScreenSurface

/// Updates (RFC 6143 §7.6.1): header and list of rectangles are fixed when an update begins, each rectangle
/// is encoded when there is room to send it.
extension RFBSession {
    /// Appends to `output` what the viewer waits for, until enough waits to be sent.
    public func fill() {
        while state == .running, output.count < Self.outputLowWater {
            if !view.queue.isEmpty {
                encode(view.queue.removeFirst())
                if view.queue.isEmpty {
                    endUpdate()
                    // What had to wait for that.
                    process()
                }
            } else if !beginUpdate() {
                return
            }
        }
    }

    /// Whether there was something to tell.
    private func beginUpdate() -> Bool {
        guard view.wanted != nil, !view.needsFreshFrame else { return false }
        if view.isSizeNew, beginResize() { return true }
        let news = takeNews()
        guard !news.isEmpty || view.hasNews else { return false }
        let (move, damage) = view.takeUpdate()
        let parts = damage.flatMap { split($0) }
        let count = news.count + parts.count + (move == nil ? 0 : 1)
        guard count > 0 else { return false }
        view.endsWithWord = view.hasLastRectangle
        beginMessage(rectangles: view.endsWithWord ? RFBNumber.openCount : count)
        for rectangle in news { append(rectangle) }
        if let move {
            beginRectangle(move.rectangle, RFBNumber.Encoding.copyRectangle)
            output.append(bigEndian: UInt16(move.fromX))
            output.append(bigEndian: UInt16(move.fromY))
        }
        view.queue = parts
        if parts.isEmpty { endUpdate() }
        return true
    }

    /// Tells a viewer that takes updates of any length that this one is over (rfbproto, "LastRect").
    private func endUpdate() {
        guard view.endsWithWord else { return }
        view.endsWithWord = false
        let nothing = ScreenRectangle(x: 0, y: 0, width: 0, height: 0)
        beginRectangle(nothing, RFBNumber.Encoding.lastRectangle)
    }

    /// Another size is an update of its own: the viewer asks anew for what is on the screen. False for one
    /// that keeps its size, and sees what of the screen lies inside.
    private func beginResize() -> Bool {
        guard view.canResize else {
            view.resize(view.width, view.height)
            return false
        }
        view.resize(framebuffer.width, framebuffer.height)
        beginMessage(rectangles: 1)
        if view.hasExtendedDesktopSize {
            appendExtendedSize(reason: takeReason(), status: RFBNumber.SizeStatus.done)
            view.greetings.remove(RFBNumber.Encoding.extendedDesktopSize)
        } else {
            beginRectangle(framebuffer.bounds, RFBNumber.Encoding.desktopSize)
        }
        view.requestIsAnswered()
        return true
    }

    /// Who had wished for the size that the screen has now.
    private func takeReason() -> Int {
        guard let wish = view.wish, wish.width == framebuffer.width, wish.height == framebuffer.height else {
            return RFBNumber.SizeReason.nobody
        }
        view.wish = nil
        // That the guest was told goes without saying.
        if wish.isOwn, view.sizeAnswer == RFBNumber.SizeStatus.forwarded { view.sizeAnswer = nil }
        return wish.isOwn ? RFBNumber.SizeReason.viewer : RFBNumber.SizeReason.otherViewer
    }

    /// A rectangle without pixels.
    private enum News {
        case name, extendedKeys, cursor
        case pointerMotion(isAbsolute: Bool)
        case extendedSize
        /// What became of this viewer's wish for another.
        case sizeAnswer(UInt16)
    }

    /// What the viewer has not been told yet.
    private func takeNews() -> [News] {
        var news: [News] = []
        if view.greetings.contains(RFBNumber.Encoding.desktopName) { news.append(.name) }
        if view.greetings.contains(RFBNumber.Encoding.extendedKey) { news.append(.extendedKeys) }
        if view.greetings.contains(RFBNumber.Encoding.pointerMotion) {
            let isAbsolute = framebuffer.abilities.contains(.takesPositions)
            news.append(.pointerMotion(isAbsolute: isAbsolute))
            view.usesRelativePointer = !isAbsolute
        }
        if view.greetings.contains(RFBNumber.Encoding.extendedDesktopSize) {
            news.append(.extendedSize)
        }
        if let answer = view.sizeAnswer, view.hasExtendedDesktopSize { news.append(.sizeAnswer(answer)) }
        let wanted = view.wantedCursor(framebuffer.cursor, shape: framebuffer.cursorShape)
        if wanted != view.ownCursor {
            view.ownCursor = wanted
            news.append(.cursor)
        }
        view.greetings = []
        view.sizeAnswer = nil
        return news
    }

    private func append(_ news: News) {
        let empty = ScreenRectangle(x: 0, y: 0, width: 0, height: 0)
        switch news {
        case .name:
            beginRectangle(empty, RFBNumber.Encoding.desktopName)
            appendText(configuration.name)
        case .cursor: appendCursor()
        case .extendedKeys: beginRectangle(empty, RFBNumber.Encoding.extendedKey)
        // An x of 1 says that positions are absolute; a mouse knows only distances.
        case .pointerMotion(let isAbsolute):
            let kind = ScreenRectangle(x: isAbsolute ? 1 : 0, y: 0, width: 0, height: 0)
            beginRectangle(kind, RFBNumber.Encoding.pointerMotion)
        case .extendedSize:
            appendExtendedSize(reason: RFBNumber.SizeReason.nobody, status: RFBNumber.SizeStatus.done)
        case .sizeAnswer(let status):
            appendExtendedSize(reason: RFBNumber.SizeReason.viewer, status: status)
        }
    }

    /// The cursor for a viewer that draws it: for none, a single pixel that is not seen, since viewers do not
    /// agree on pictures without any.
    private func appendCursor() {
        let nothing = ScreenCursor(pixels: [0], width: 1, height: 1, left: 0, top: 0)
        let cursor = view.ownCursor == .invisible ? nothing : framebuffer.cursor ?? nothing
        let header = ScreenRectangle(
            x: cursor.hotX, y: cursor.hotY, width: cursor.width, height: cursor.height)
        guard view.hasAlphaCursor else {
            beginRectangle(header, RFBNumber.Encoding.cursor)
            CursorEncoder.append(cursor, view.translator, to: &output)
            return
        }
        beginRectangle(header, RFBNumber.Encoding.alphaCursor)
        output.append(bigEndian: RFBNumber.Encoding.raw)
        CursorEncoder.appendAlpha(cursor, to: &output)
    }

    private func beginMessage(rectangles: Int) {
        output += [RFBNumber.FromServer.update, 0]
        output.append(bigEndian: UInt16(rectangles))
    }

    private func beginRectangle(_ part: ScreenRectangle, _ encoding: Int32) {
        for value in [part.x, part.y, part.width, part.height] {
            output.append(bigEndian: UInt16(truncatingIfNeeded: value))
        }
        output.append(bigEndian: encoding)
    }

    /// One screen that covers everything (rfbproto, "ExtendedDesktopSize").
    private func appendExtendedSize(reason: Int, status: UInt16) {
        var header = framebuffer.bounds
        header.x = reason
        header.y = Int(status)
        beginRectangle(header, RFBNumber.Encoding.extendedDesktopSize)
        output += [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        output.append(bigEndian: UInt16(framebuffer.width))
        output.append(bigEndian: UInt16(framebuffer.height))
        output.append(bigEndian: UInt32(0))
    }

    /// Parts that are small enough to be encoded at once.
    private func split(_ part: ScreenRectangle) -> [ScreenRectangle] {
        let isTight = view.encoding == RFBNumber.Encoding.tight
        let width = min(part.width, isTight ? TightEncoder.side : Self.widestRectangle)
        let height = isTight ? TightEncoder.side : max(Self.mostPixels / max(width, 1) & ~15, 16)
        var parts: [ScreenRectangle] = []
        for y in stride(from: part.y, to: part.bottom, by: height) {
            for x in stride(from: part.x, to: part.right, by: width) {
                parts.append(
                    ScreenRectangle(
                        x: x, y: y, width: min(width, part.right - x), height: min(height, part.bottom - y)))
            }
        }
        return parts
    }

    private func encode(_ part: ScreenRectangle) {
        var pixels = framebuffer.copy(part)
        if view.seesCursorInPicture { framebuffer.cursor?.blend(into: &pixels, of: part) }
        let values = view.translator.values(pixels)
        beginRectangle(part, view.encoding)
        switch view.encoding {
        case RFBNumber.Encoding.hextile:
            HextileEncoder.append(values, width: part.width, view.translator, to: &output)
        case RFBNumber.Encoding.zrle:
            zrle.append(
                values, width: part.width, level: view.compression, view.translator, to: &output)
        case RFBNumber.Encoding.tight:
            tight.append(
                values, pixels: pixels, width: part.width, level: view.compression, quality: view.quality,
                view.translator, to: &output)
        default:
            output.reserveCapacity(output.count + values.count * 4)
            for value in values { view.translator.append(value, to: &output) }
        }
    }
}
