/// The bytes of probes, which are most of all translated code: written in words, not by field.
extension Assembler {
    /// R11 = offset of the cache's entry for the linear address in register `linear`: RORX R11, linear, 7;
    /// AND R11D, mask.
    @inline(__always) mutating func probeIndex(_ linear: UInt8) {
        put(
            0x8141_07D8_F0FB_43C4 | (linear < 8 ? 0x2000 : 0) | UInt64(linear & 7) << 32, 8)
        put(0xE3 | UInt64(TLB.entries - 1) << 13, 5)
    }

    /// `compared` ^= the tag of the entry at R11.
    @inline(__always) mutating func probeTag(_ compared: UInt8, write: Bool) {
        let rex = 0x4B | UInt64(compared >> 3) << 2, reg = UInt64(compared & 7) << 19
        if write {
            put(0x08_1944_3300 | rex | reg, 5)
        } else {
            put(0x1904_3300 | rex | reg, 4)
        }
    }

    /// CMP compared, 1000h - size; JNBE, the site of which is returned. `compared` is RAX or R10.
    @inline(__always) mutating func probeEnd(_ compared: UInt8, size: Int) -> Site {
        let last = UInt64(0x1000 - size)
        if compared == HostRegister.rax {
            put(0x3D48 | last << 16, 6)
        } else {
            put(0xFA_8149 | last << 24, 7)
        }
        put(0x870F, 6)
        return here &- 4
    }

    /// R11 = addend of the entry at R11.
    @inline(__always) mutating func probeAddend() { put(0x10_195C_8B4F, 5) }

    /// LEA target, [base + displacement] with 64 bits.
    @inline(__always) mutating func add(_ displacement: Int32, to base: UInt8, in target: UInt8) {
        guard displacement >= -128, displacement < 128, base & 7 != 4 else {
            return lea(
                target, base: base, index: HostRegister.none, scaleShift: 0, displacement, wide: true)
        }
        let rex = 0x48 | UInt64(target >> 3) << 2 | UInt64(base >> 3)
        let modRM = 0x40 | UInt64(target & 7) << 3 | UInt64(base & 7)
        put(rex | 0x8D00 | modRM << 16 | UInt64(UInt8(truncatingIfNeeded: displacement)) << 24, 4)
    }
}

/// Where the linear address is when a probe finds nothing.
enum ProbeMiss: UInt8, CaseIterable {
    /// In R10.
    case address
    /// XORed with the tag of the entry at R11, in RAX.
    case inRAX
    /// The same in R10.
    case inR10
}

extension Translator {
    /// What a probe asks the translation cache for.
    struct Probe {
        /// The register with the linear address, or what `displacement` is added to.
        var linear: UInt8
        /// At most `Translator.nearby` either way.
        var displacement: Int32 = 0
        /// Bytes, at most 2,048.
        var size: Int
        var write: Bool
        /// Of the address, less one; more aligned operands fault.
        var alignmentMask: UInt8 = 0
        /// Several operands: when they do not lie in one page, the block is translated again without groups.
        var isGroup = false
    }

    /// How a probe that found nothing goes on.
    struct Miss {
        var kind: ProbeMiss
        var size: Int
        var write: Bool
        var isGroup = false
        /// The linear address, if it is known now.
        var known: UInt64?
        /// Where R11 holds the addend.
        var back: UInt
    }

    /// Looks up the page of `probe`: R11 becomes its addend. Destroys the host's flags, and RAX unless the
    /// guest's flags are in it; R10 keeps the address if that is there. What the cache does not know goes by
    /// a stub; what is no plain memory, by the interpreter.
    func emitProbe(_ probe: Probe, _ item: BlockInstruction) {
        probeCount += 1
        let isFree = flags != .saved
        let compared = isFree ? HostRegister.rax : HostRegister.address
        code.probeIndex(probe.linear)
        if probe.displacement != 0 {
            code.add(probe.displacement, to: probe.linear, in: compared)
        } else if compared != probe.linear {
            code.move(compared, probe.linear)
        }
        code.probeTag(compared, write: probe.write)
        let from = code.probeEnd(compared, size: probe.size)
        // R10 gets its address back, if that is nowhere else.
        if !isFree, probe.linear == HostRegister.address { code.probeTag(compared, write: probe.write) }
        code.probeAddend()
        let miss = Miss(
            kind: isFree ? .inRAX : .inR10, size: probe.size, write: probe.write, isGroup: probe.isGroup,
            back: code.here)
        stubs.append(Stub(kind: .fill(miss), from: from, pageOffset: item.pageOffset))
        if probe.alignmentMask != 0 {
            // TEST linear, mask
            code.encode(wide: false, 0xF6, 0, .register(probe.linear), forceREX: true)
            code.byte(probe.alignmentMask)
            let misaligned = code.pendingJumpIf(5)
            stubs.append(Stub(kind: .interpret, from: misaligned, pageOffset: item.pageOffset))
        }
    }

    /// The stub of a probe that found nothing: a call, and behind it how far back it goes on, the place, and
    /// of wide ones the site and the size.
    func emitFillStub(_ miss: Miss, _ stub: Stub) {
        if let known = miss.known { code.constant(HostRegister.address, known) }
        let isWide = miss.isGroup || miss.size >= 32
        code.call(
            isWide
                ? gates.wideFill(miss.kind, write: miss.write)
                : gates.fill(miss.kind, size: miss.size, write: miss.write))
        let distance = code.here &- miss.back
        precondition(distance <= 0xFFFF, "a block is too long")
        code.word16(UInt16(truncatingIfNeeded: distance))
        emitPlace(stub.pageOffset)
        guard isWide else { return }
        emitSite(stub.from)
        code.word16(UInt16(truncatingIfNeeded: miss.size | (miss.isGroup ? 0x2000 : 0)))
    }
}
