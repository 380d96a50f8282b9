internal import ByteLayout
internal import GuestMemory
internal import ScreenSurface

/// The picture that lies over the screen at the pointer (VIRTIO 1.3 §5.7.6.10, UPDATE_CURSOR).
struct GPUCursor: Codable, Sendable, Equatable {
    static let side = ScreenCursor.longestSide
    /// Alpha, red, green, blue, the colours multiplied with alpha already.
    var pixels: [UInt32]
    var hotX: UInt32, hotY: UInt32
    /// Where the top left corner is. §5.7.6.10 does not say so, drivers mean it: planes of Linux and pointers
    /// of Windows' display drivers are placed by that corner.
    var x: Int32, y: Int32

    /// What viewers get. The driver's hot spot may be anywhere; theirs is a pixel of the picture.
    var screenCursor: ScreenCursor {
        func inside(_ hot: UInt32) -> Int { min(Int(hot), Self.side - 1) }
        return ScreenCursor(
            pixels: pixels, width: Self.side, height: Self.side, hotX: inside(hotX), hotY: inside(hotY),
            left: Int(x), top: Int(y))
    }
}

/// What the guest has made of a display adapter: resources, what of them the screen shows, and what of that
/// has changed. A value; its device locks.
struct GPUState {
    /// Bytes of all pictures that a guest may make: eight screens of 4K.
    static let mostBytes = 256 << 20
    static let mostResources = 4096
    /// Of the backing of all resources together.
    static let mostPieces = 1 << 17

    /// What the screen shows (SET_SCANOUT).
    struct Scanout: Codable, Sendable, Equatable {
        var resource: UInt32
        var x: UInt32, y: UInt32, width: UInt32, height: UInt32
        var part: ScreenRectangle {
            ScreenRectangle(x: Int(x), y: Int(y), width: Int(width), height: Int(height))
        }
    }

    /// The size that the host would like the screen to have.
    var width = 1280, height = 800
    /// The configuration's `events_read`.
    var events: UInt32 = 0
    private var resources: [UInt32: GPUResource] = [:]
    private(set) var scanout: Scanout? {
        didSet { if scanout != oldValue { damageAll() } }
    }
    private(set) var cursor: GPUCursor?
    /// Of the screen, since somebody drew it.
    private(set) var damage = DamageRegion()
    private var byteCount = 0, pieceCount = 0

    var screen: ScreenRectangle {
        let size = scanout?.part
        return ScreenRectangle(x: 0, y: 0, width: size?.width ?? width, height: size?.height ?? height)
    }

    private mutating func damageAll() {
        damage.clear()
        damage.add(screen)
    }

    /// What the guest made is gone; the host's wish stays.
    mutating func reset() {
        self = GPUState(width: width, height: height)
        damageAll()
    }

    // MARK: Commands (§5.7.6.8)

    /// CREATE_2D: le32 resource_id, format, width, height.
    mutating func createResource(_ request: [UInt8]) -> GPUAnswer {
        let id = request.gpuField(GPUField.resource)
        guard id != 0, resources[id] == nil else { return .invalidResource }
        guard let format = GPUFormat(rawValue: request.gpuField(GPUField.format)),
            let resource = GPUResource(
                format, width: request.gpuField(GPUField.width), height: request.gpuField(GPUField.height))
        else { return .invalidParameter }
        guard resources.count < Self.mostResources, resource.byteCount <= Self.mostBytes - byteCount else {
            return .outOfMemory
        }
        byteCount += resource.byteCount
        resources[id] = resource
        return .ok
    }

    mutating func unrefResource(_ id: UInt32) -> GPUAnswer {
        guard let resource = resources.removeValue(forKey: id) else { return .invalidResource }
        byteCount -= resource.byteCount
        pieceCount -= resource.backing?.pieces.count ?? 0
        if scanout?.resource == id { scanout = nil }
        return .ok
    }

    /// Each of the entries: le64 addr, le32 length, le32 padding.
    mutating func attachBacking(_ id: UInt32, _ entries: [UInt8], _ memory: GuestMemory) -> GPUAnswer {
        guard resources[id] != nil else { return .invalidResource }
        // A driver detaches what it has attached.
        guard resources[id]?.backing == nil else { return .unspecified }
        let list = stride(from: 0, to: entries.count, by: GPUField.entrySize).map { place in
            (
                address: UInt64(entries.gpuField(place)) | UInt64(entries.gpuField(place + 4)) << 32,
                count: entries.gpuField(place + 8)
            )
        }
        guard let backing = GuestBacking(list, memory) else { return .invalidParameter }
        guard backing.pieces.count <= Self.mostPieces - pieceCount else { return .outOfMemory }
        pieceCount += backing.pieces.count
        resources[id]?.attach(backing, memory)
        return .ok
    }

    mutating func detachBacking(_ id: UInt32, _ memory: GuestMemory) -> GPUAnswer {
        guard let backing = resources[id]?.backing else { return .invalidResource }
        pieceCount -= backing.pieces.count
        resources[id]?.detach(memory)
        return .ok
    }

    /// Nil when the rectangle is not inside the resource.
    private func rectangle(_ request: [UInt8], inside bounds: ScreenRectangle) -> ScreenRectangle? {
        let fields = (0..<4).map { Int(request.gpuField(GPUField.rectangle + 4 * $0)) }
        let part = ScreenRectangle(x: fields[0], y: fields[1], width: fields[2], height: fields[3])
        guard part.right <= bounds.width, part.bottom <= bounds.height else { return nil }
        return part
    }

    /// SET_SCANOUT: rectangle, le32 scanout_id, resource_id; no resource switches the screen off.
    mutating func setScanout(_ request: [UInt8]) -> GPUAnswer {
        guard request.gpuField(GPUField.scanout) == 0 else { return .invalidScanout }
        let id = request.gpuField(GPUField.scanoutResource)
        guard id != 0 else {
            scanout = nil
            return .ok
        }
        guard let bounds = resources[id]?.bounds else { return .invalidResource }
        guard let part = rectangle(request, inside: bounds), !part.isEmpty else { return .invalidParameter }
        scanout = Scanout(
            resource: id, x: UInt32(part.x), y: UInt32(part.y), width: UInt32(part.width),
            height: UInt32(part.height))
        return .ok
    }

    /// FLUSH: rectangle, le32 resource_id.
    mutating func flush(_ request: [UInt8]) -> GPUAnswer {
        let id = request.gpuField(GPUField.flushResource)
        guard let bounds = resources[id]?.bounds else { return .invalidResource }
        guard let part = rectangle(request, inside: bounds) else { return .invalidParameter }
        guard let scanout, scanout.resource == id else { return .ok }
        var shown = part.intersection(scanout.part)
        guard !shown.isEmpty else { return .ok }
        shown.x -= scanout.part.x
        shown.y -= scanout.part.y
        damage.add(shown)
        return .ok
    }

    /// TRANSFER_TO_HOST_2D: rectangle, le64 offset, le32 resource_id. Returns the bytes that it moved, too.
    mutating func transfer(_ request: [UInt8], _ memory: GuestMemory) -> (GPUAnswer, bytes: Int) {
        let id = request.gpuField(GPUField.transferResource)
        // Nothing may hold the resource itself when it is changed: its pixels would be copied.
        guard let bounds = resources[id]?.bounds else { return (.invalidResource, 0) }
        guard let part = rectangle(request, inside: bounds) else { return (.invalidParameter, 0) }
        let place = GPUField.transferOffset
        let offset = UInt64(request.gpuField(place)) | UInt64(request.gpuField(place + 4)) << 32
        guard resources[id]?.transfer(part, from: offset, memory) == true else {
            return (.invalidParameter, 0)
        }
        return (.ok, part.area * 4)
    }

    // MARK: Cursor (§5.7.6.10)

    /// le32 scanout_id, x, y; then le32 resource_id, hot_x, hot_y. Nothing answers to what cannot be.
    mutating func updateCursor(_ request: [UInt8], _ memory: GuestMemory) {
        guard request.gpuField(GPUField.cursorScanout) == 0 else { return }
        let id = request.gpuField(GPUField.cursorResource)
        guard id != 0 else { return cursor = nil }
        let side = GPUCursor.side
        guard let resource = resources[id], resource.width == side, resource.height == side else { return }
        var pixels: [UInt32] = [], row = [UInt32](repeating: 0, count: side)
        for y in 0..<side {
            resources[id]?.copyRow(y, from: 0, into: &row, memory)
            pixels += row
        }
        cursor = GPUCursor(
            pixels: pixels, hotX: request.gpuField(GPUField.cursorHotX),
            hotY: request.gpuField(GPUField.cursorHotY), x: Self.position(request, GPUField.cursorX),
            y: Self.position(request, GPUField.cursorY))
    }

    mutating func moveCursor(_ request: [UInt8]) {
        guard request.gpuField(GPUField.cursorScanout) == 0 else { return }
        cursor?.x = Self.position(request, GPUField.cursorX)
        cursor?.y = Self.position(request, GPUField.cursorY)
    }

    /// A cursor may begin left of the screen or above it.
    private static func position(_ request: [UInt8], _ place: Int) -> Int32 {
        Int32(bitPattern: request.gpuField(place))
    }

    // MARK: Drawing

    /// What is to be drawn; the next call says what changed after this one.
    mutating func takeDamage() -> (
        screen: ScreenRectangle, damage: [ScreenRectangle], cursor: ScreenCursor?
    ) {
        defer { damage.clear() }
        return (screen, damage.rectangles, scanout == nil ? nil : cursor?.screenCursor)
    }

    /// A part of a row of the screen as it is now; false when the screen has no such part any more.
    mutating func copyRow(_ y: Int, from x: Int, into row: inout [UInt32], _ memory: GuestMemory) -> Bool {
        guard y < screen.height, x + row.count <= screen.width else { return false }
        if let part = scanout {
            resources[part.resource]?.copyRow(part.part.y + y, from: part.part.x + x, into: &row, memory)
        } else {
            for index in row.indices { row[index] = 0 }
        }
        for index in row.indices { row[index] &= 0xFF_FFFF }
        return true
    }

    // MARK: Saved state

    struct Saved: Codable, Sendable, Equatable {
        var width: UInt32, height: UInt32
        var events: UInt32
        /// By identifier.
        var resources: [GPUResource.Saved]
        var scanout: Scanout?
        var cursor: GPUCursor?
    }

    func save() -> Saved {
        Saved(
            width: UInt32(width), height: UInt32(height), events: events,
            resources: resources.sorted { $0.key < $1.key }.map { $0.value.save(id: $0.key) },
            scanout: scanout, cursor: cursor)
    }

    /// Nil when no guest can have made that.
    init?(_ saved: Saved, _ memory: GuestMemory) {
        self.init()
        (width, height) = (Int(saved.width), Int(saved.height))
        events = saved.events
        guard VirtioGPU.sides.contains(width), VirtioGPU.sides.contains(height),
            saved.resources.count <= Self.mostResources
        else { return nil }
        for old in saved.resources {
            guard old.id != 0, resources[old.id] == nil, let resource = GPUResource(old, memory) else {
                return nil
            }
            byteCount += resource.byteCount
            pieceCount += resource.backing?.pieces.count ?? 0
            guard byteCount <= Self.mostBytes, pieceCount <= Self.mostPieces else { return nil }
            resources[old.id] = resource
        }
        if let scanout = saved.scanout {
            guard let resource = resources[scanout.resource], !scanout.part.isEmpty,
                scanout.part.right <= resource.width, scanout.part.bottom <= resource.height
            else { return nil }
        }
        guard saved.cursor.map({ $0.pixels.count == GPUCursor.side * GPUCursor.side }) ?? true else {
            return nil
        }
        scanout = saved.scanout
        cursor = saved.cursor
        damageAll()
    }

    private init(width: Int, height: Int) {
        self.width = width
        self.height = height
    }

    init() { damageAll() }
}
