import X86Architecture

/// String instructions. Repeated MOVS and STOS work on runs inside a page at host speed; every repetition is
/// restartable, with RCX, RSI and RDI as they stand, and long ones come up for air so that interrupts are not
/// held off.
extension CPU {
    /// Most bytes that one visit of a repeated string instruction handles.
    private static let longestRun: UInt64 = 1 << 16
    /// Most single elements that one visit handles.
    private static let mostElements = 4096

    private struct StringRegisters {
        let addressMask: UInt64
        let addressSize: UInt8
        let elementSize: UInt8
        let step: UInt64
        let repeats: Bool
    }

    private func stringRegisters(_ i: Instruction, _ elementSize: UInt8) -> StringRegisters {
        StringRegisters(
            addressMask: Self.addressMask(i.addressSize), addressSize: i.addressSize,
            elementSize: elementSize,
            step: directionFlag ? 0 &- UInt64(elementSize) : UInt64(elementSize),
            repeats: !i.prefixes.isDisjoint(with: [.rep, .repne]))
    }

    /// Moves an index register by `change`, in the address size.
    private func advance(_ register: Int, _ r: StringRegisters, _ change: UInt64) {
        setGPR(register, size: r.addressSize, (gpr(register) &+ change) & r.addressMask)
    }

    /// Counts `done` repetitions; goes back to the instruction while some are left.
    /// Without any repetition RCX is not written, so that a 32-bit count keeps its upper half.
    private func finish(_ r: StringRegisters, _ done: UInt64, _ length: UInt8, stop: Bool = false) {
        guard r.repeats, done != 0 else { return }
        let left = (gpr(Register.rcx) &- done) & r.addressMask
        setGPR(Register.rcx, size: r.addressSize, left)
        if left != 0, !stop {
            s.rip = s.rip &- UInt64(length)
            s.endBlock = true
            s.keepResumeFlag = true
        }
    }

    /// How many repetitions are due: one at a time while debug traps may come between them.
    private func due(_ r: StringRegisters) -> UInt64 {
        guard r.repeats else { return 1 }
        let left = gpr(Register.rcx) & r.addressMask
        return runsSingleSteps ? min(left, 1) : left
    }

    /// Elements from `offset` to the end of its page, when addresses go up and do not wrap on the way.
    private func elementsInPage(_ offset: UInt64, _ linear: UInt64, _ r: StringRegisters) -> UInt64 {
        let inPage = (0x1000 &- linear & 0xFFF) / UInt64(r.elementSize)
        let toWrap = r.addressMask &- offset
        return toWrap < 0x1000 ? 0 : inPage
    }

    // MARK: MOVS

    func moveString(_ i: Instruction) throws(Fault) {
        let r = stringRegisters(i, i.operand0.size)
        var left = due(r), done: UInt64 = 0, elements = 0
        do throws(Fault) {
            while left > 0, done &* UInt64(r.elementSize) < Self.longestRun, elements < Self.mostElements {
                let run = r.repeats ? try moveRun(i.segment, r, left) : 0
                if run > 0 {
                    left -= run
                    done += run
                    continue
                }
                try moveElement(i.segment, r)
                left -= 1
                done += 1
                elements += 1
                if s.codeModified { break }
            }
        } catch {
            finish(r, done, 0, stop: true)
            throw error
        }
        finish(r, done, i.length)
    }

    private func moveElement(_ segment: UInt8, _ r: StringRegisters) throws(Fault) {
        let size = Int(r.elementSize)
        let source = try linear(segment, gpr(Register.rsi) & r.addressMask, size)
        let value = try load(size: r.elementSize, source, segment)
        let target = try linear(0, gpr(Register.rdi) & r.addressMask, size, write: true)
        try store(size: r.elementSize, value, target, 0)
        advance(Register.rsi, r, r.step)
        advance(Register.rdi, r, r.step)
    }

    /// Copies as many elements as both pages hold, upwards; 0 when the slow way must be taken.
    private func moveRun(_ segment: UInt8, _ r: StringRegisters, _ left: UInt64) throws(Fault) -> UInt64 {
        guard r.step == UInt64(r.elementSize) else { return try moveRunDown(segment, r, left) }
        let from = gpr(Register.rsi) & r.addressMask, to = gpr(Register.rdi) & r.addressMask
        let source = try linear(segment, from, Int(r.elementSize))
        let target = try linear(0, to, Int(r.elementSize), write: true)
        let count = min(left, elementsInPage(from, source, r), elementsInPage(to, target, r))
        guard count > 1 else { return 0 }
        let bytes = Int(count) * Int(r.elementSize)
        _ = try linear(segment, from, bytes)
        _ = try linear(0, to, bytes, write: true)
        let sourceHost = try sourceHost(source, source, bytes)
        guard sourceHost != 0 else { return 0 }
        // A target inside the first element: each element sees a part of the one before.
        guard target &- source &- 1 >= UInt64(r.elementSize) &- 1 else { return 0 }
        let targetHost = try writableHost(target, bytes, 0)
        guard targetHost != 0 else { return 0 }
        Self.copyForward(from: sourceHost, to: targetHost, bytes)
        advance(Register.rsi, r, UInt64(bytes))
        advance(Register.rdi, r, UInt64(bytes))
        return count
    }

    /// The same downwards, as kernels move their image up at the start.
    private func moveRunDown(_ segment: UInt8, _ r: StringRegisters, _ left: UInt64) throws(Fault) -> UInt64 {
        let size = UInt64(r.elementSize)
        let from = gpr(Register.rsi) & r.addressMask, to = gpr(Register.rdi) & r.addressMask
        let source = try linear(segment, from, Int(size))
        let target = try linear(0, to, Int(size), write: true)
        let count = min(left, elementsDown(from, source, r), elementsDown(to, target, r))
        guard count > 1 else { return 0 }
        let bytes = Int(count &* size), back = count &* size &- size
        let low = try linear(segment, from &- back, bytes)
        let lowTarget = try linear(0, to &- back, bytes, write: true)
        let sourceHost = try sourceHost(low, source, bytes)
        guard sourceHost != 0 else { return 0 }
        // A fault is that of the first element.
        guard try writableHost(target, Int(size), 0) != 0 else { return 0 }
        let targetHost = try writableHost(lowTarget, bytes, 0)
        // Elements below the first would be read after they were written.
        guard targetHost != 0, sourceHost &- targetHost &- 1 >= UInt(bytes) &- 1 else { return 0 }
        // SAFETY: both ranges were located by TLB entries, `bytes` inside one page each.
        unsafe UnsafeMutableRawPointer(bitPattern: targetHost).unsafelyUnwrapped.copyMemory(
            from: UnsafeRawPointer(bitPattern: sourceHost).unsafelyUnwrapped, byteCount: bytes)
        advance(Register.rsi, r, 0 &- UInt64(bytes))
        advance(Register.rdi, r, 0 &- UInt64(bytes))
        return count
    }

    /// Host address of the `count` bytes at `low`, in one page; 0 when they cannot be read directly. A fault
    /// is that of the first element, at `first`. Source and target may want the same entry of the TLB.
    private func sourceHost(_ low: UInt64, _ first: UInt64, _ count: Int) throws(Fault) -> UInt {
        let known = readableHost(low, count)
        if known != 0 { return known }
        guard let addend = try fillPage(first, 1, write: false) else { return 0 }
        return UInt(truncatingIfNeeded: low) &+ addend
    }

    /// Elements from `offset` down to the start of its page, when addresses do not wrap on the way.
    private func elementsDown(_ offset: UInt64, _ linear: UInt64, _ r: StringRegisters) -> UInt64 {
        let place = linear & 0xFFF, size = UInt64(r.elementSize)
        return offset < 0x1000 || place &+ size > 0x1000 ? 0 : place / size + 1
    }

    /// Host address of `count` bytes in one page when the TLB has it for loads; else 0.
    @inline(__always) func readableHost(_ linear: UInt64, _ count: Int) -> UInt {
        let entry = unsafe Self.entry(s.tlb, linear)
        guard unsafe entry.pointee.readTag == Self.lastPage(linear, count) else { return 0 }
        return unsafe entry.pointee.hostAddress(linear)
    }

    /// A copy in ascending order, byte by byte as the guest sees it: an overlapping target repeats the
    /// pattern.
    private static func copyForward(from source: UInt, to target: UInt, _ count: Int) {
        // SAFETY: both ranges were located by TLB entries, `count` bytes inside one page each.
        let from = unsafe UnsafeRawPointer(bitPattern: source).unsafelyUnwrapped
        let to = unsafe UnsafeMutableRawPointer(bitPattern: target).unsafelyUnwrapped
        let distance = target &- source
        if distance >= UInt(count) {
            unsafe to.copyMemory(from: from, byteCount: count)
            return
        }
        // The target starts inside the source: copy pieces no longer than the distance.
        guard distance > 0 else { return }
        var done = 0
        while done < count {
            let piece = min(Int(distance), count - done)
            unsafe (to + done).copyMemory(from: from + done, byteCount: piece)
            done += piece
        }
    }

    // MARK: STOS

    func storeString(_ i: Instruction) throws(Fault) {
        let r = stringRegisters(i, i.operand0.size)
        var left = due(r), done: UInt64 = 0, elements = 0
        do throws(Fault) {
            while left > 0, done &* UInt64(r.elementSize) < Self.longestRun, elements < Self.mostElements {
                let run = r.repeats ? try storeRun(r, left) : 0
                if run > 0 {
                    left -= run
                    done += run
                    continue
                }
                let target = try linear(0, gpr(Register.rdi) & r.addressMask, Int(r.elementSize), write: true)
                try store(size: r.elementSize, gpr(Register.rax), target, 0)
                advance(Register.rdi, r, r.step)
                left -= 1
                done += 1
                elements += 1
                if s.codeModified { break }
            }
        } catch {
            finish(r, done, 0, stop: true)
            throw error
        }
        finish(r, done, i.length)
    }

    private func storeRun(_ r: StringRegisters, _ left: UInt64) throws(Fault) -> UInt64 {
        guard r.step == UInt64(r.elementSize) else { return 0 }
        let to = gpr(Register.rdi) & r.addressMask
        let target = try linear(0, to, Int(r.elementSize), write: true)
        let count = min(left, elementsInPage(to, target, r))
        guard count > 1 else { return 0 }
        let bytes = Int(count) * Int(r.elementSize)
        _ = try linear(0, to, bytes, write: true)
        let host = try writableHost(target, bytes, 0)
        guard host != 0 else { return 0 }
        // SAFETY: `writableHost` proved `bytes` writable bytes.
        let pointer = unsafe UnsafeMutableRawPointer(bitPattern: host).unsafelyUnwrapped
        let value = gpr(Register.rax)
        switch r.elementSize {
        case 1:
            unsafe pointer.initializeMemory(
                as: UInt8.self, repeating: UInt8(truncatingIfNeeded: value), count: bytes)
        default:
            for index in 0..<Int(count) {
                Self.storeHost(host &+ UInt(index) &* UInt(r.elementSize), Int(r.elementSize), value)
            }
        }
        advance(Register.rdi, r, UInt64(bytes))
        return count
    }

    // MARK: LODS, SCAS, CMPS

    func loadString(_ i: Instruction) throws(Fault) {
        let r = stringRegisters(i, i.operand0.size)
        var left = due(r), done: UInt64 = 0
        do throws(Fault) {
            while left > 0, done < UInt64(Self.mostElements) {
                let source = try linear(i.segment, gpr(Register.rsi) & r.addressMask, Int(r.elementSize))
                setGPR(Register.rax, size: r.elementSize, try load(size: r.elementSize, source, i.segment))
                advance(Register.rsi, r, r.step)
                left -= 1
                done += 1
            }
        } catch {
            finish(r, done, 0, stop: true)
            throw error
        }
        finish(r, done, i.length)
    }

    /// REPE goes on while ZF is set, REPNE while it is clear.
    private func comparisonEnded(_ i: Instruction) -> Bool {
        i.prefixes.contains(.rep) ? !zeroFlag : i.prefixes.contains(.repne) ? zeroFlag : true
    }

    func scanString(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let r = stringRegisters(i, size)
        var left = due(r), done: UInt64 = 0, ended = false
        let a = gpr(Register.rax) & Self.sizeMask(size)
        do throws(Fault) {
            while left > 0, done < UInt64(Self.mostElements), !ended {
                let target = try linear(0, gpr(Register.rdi) & r.addressMask, Int(size))
                let b = try load(size: size, target, 0)
                setSubtractFlags(size: size, a, b, a &- b)
                advance(Register.rdi, r, r.step)
                left -= 1
                done += 1
                ended = comparisonEnded(i)
            }
        } catch {
            finish(r, done, 0, stop: true)
            throw error
        }
        finish(r, done, i.length, stop: ended)
    }

    func compareString(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let r = stringRegisters(i, size)
        var left = due(r), done: UInt64 = 0, ended = false
        do throws(Fault) {
            while left > 0, done < UInt64(Self.mostElements), !ended {
                // rDI's operand first: when both fault, that is the one AMD's processors report.
                let b = try load(size: size, linear(0, gpr(Register.rdi) & r.addressMask, Int(size)), 0)
                let source = try linear(i.segment, gpr(Register.rsi) & r.addressMask, Int(size))
                let a = try load(size: size, source, i.segment)
                setSubtractFlags(size: size, a, b, a &- b)
                advance(Register.rsi, r, r.step)
                advance(Register.rdi, r, r.step)
                left -= 1
                done += 1
                ended = comparisonEnded(i)
            }
        } catch {
            finish(r, done, 0, stop: true)
            throw error
        }
        finish(r, done, i.length, stop: ended)
    }
}
