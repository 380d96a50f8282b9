/// Integer instructions whose bodies take the whole decoded instruction.
enum IntegerBodies {
    static let table: [(Mnemonic, Handler)] =
        arithmetic + bits + exchange + stackAndControl + strings + miscellany

    private static let arithmetic: [(Mnemonic, Handler)] = [
        (.inc, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.increment(i) } }),
        (.dec, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.decrement(i) } }),
        (.neg, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.negate(i) } }),
        (.not, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.complement(i) } }),
        (.mul, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.multiply(i) } }),
        (.imul, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.signedMultiply(i) } }),
        (.div, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.divide(i) } }),
        (.idiv, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.signedDivide(i) } }),
        (.movzx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.moveExtended(i, signed: false) } }),
        (.movsx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.moveExtended(i, signed: true) } }),
        (.movsxd, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.moveExtended(i, signed: true) } }),
        (.cbw, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.signExtendAccumulator(i) } }),
        (.cwde, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.signExtendAccumulator(i) } }),
        (.cdqe, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.signExtendAccumulator(i) } }),
        (.cwd, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.signIntoData(i) } }),
        (.cdq, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.signIntoData(i) } }),
        (.cqo, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.signIntoData(i) } }),
        (.adcx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.addCarryOnly(i) } }),
        (.adox, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.addOverflowOnly(i) } }),
        (.mulx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.multiplyNoFlags(i) } }),
        (.aaa, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.asciiAdjust(subtract: false) } }),
        (.aas, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.asciiAdjust(subtract: true) } }),
        (.aam, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.asciiAdjustMultiply(i) } }),
        (.aad, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.asciiAdjustDivide(i) } }),
        (.daa, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.decimalAdjust(subtract: false) } }),
        (.das, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.decimalAdjust(subtract: true) } }),
    ]

    private static let bits: [(Mnemonic, Handler)] = [
        (.rol, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftOrRotate(i, .rotateLeft) } }),
        (.ror, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftOrRotate(i, .rotateRight) } }),
        (.rcl, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftOrRotate(i, .rotateCarryLeft) } }),
        (.rcr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftOrRotate(i, .rotateCarryRight) } }),
        (.shl, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftOrRotate(i, .left) } }),
        (.shr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftOrRotate(i, .right) } }),
        (.sar, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftOrRotate(i, .arithmeticRight) } }),
        (.shld, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftDouble(i, left: true) } }),
        (.shrd, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftDouble(i, left: false) } }),
        (.shlx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftNoFlags(i, .left) } }),
        (.shrx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftNoFlags(i, .right) } }),
        (.sarx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.shiftNoFlags(i, .arithmeticRight) } }),
        (.rorx, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.rotateNoFlags(i) } }),
        (.bt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.bitTest(i, .test) } }),
        (.bts, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.bitTest(i, .set) } }),
        (.btr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.bitTest(i, .reset) } }),
        (.btc, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.bitTest(i, .complement) } }),
        (.bsf, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.bitScan(i, forward: true) } }),
        (.bsr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.bitScan(i, forward: false) } }),
        (.tzcnt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.countZeros(i, trailing: true) } }),
        (.lzcnt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.countZeros(i, trailing: false) } }),
        (.popcnt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.countOnes(i) } }),
        (.bswap, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.swapBytes(i) } }),
        (.movbe, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.moveBigEndian(i) } }),
        (.andn, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.andNot(i) } }),
        (.bextr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.extractBits(i) } }),
        (.bzhi, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.zeroHighBits(i) } }),
        (.blsi, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.lowestBit(i, .isolate) } }),
        (.blsr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.lowestBit(i, .reset) } }),
        (.blsmsk, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.lowestBit(i, .mask) } }),
        (.pdep, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.deposit(i) } }),
        (.pext, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.extract(i) } }),
        (.crc32, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.crc32(i) } }),
    ]

    private static let exchange: [(Mnemonic, Handler)] = [
        (.xchg, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.exchange(i) } }),
        (.xadd, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.exchangeAdd(i) } }),
        (.cmpxchg, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.compareExchange(i) } }),
        (.cmpxchg8b, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.compareExchange8(i) } }),
        (.cmpxchg16b, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.compareExchange16(i) } }),
        (
            .setcc,
            {
                stepAny($0, $1) { cpu, i throws(Fault) in
                    try cpu.writeOperand(i, 0, cpu.condition(i.opcode & 15) ? 1 : 0)
                }
            }
        ),
        (
            .movnti,
            { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.writeOperand(i, 0, cpu.readOperand(i, 1)) } }
        ),
        (.xlat, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.translateByte(i) } }),
    ]

    private static let stackAndControl: [(Mnemonic, Handler)] = [
        (.push, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.pushMemory(i) } }),
        (.pop, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.popMemory(i) } }),
        (.pusha, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.pushAll(i) } }),
        (.popa, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.popAll(i) } }),
        (.enter, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.enter(i) } }),
        (.leave, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.leave(i) } }),
        (.jmp, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.jumpRelative(i) } }),
        (
            .jcc,
            {
                stepAny($0, $1) { cpu, i throws(Fault) in
                    if cpu.condition(i.opcode & 15) { try cpu.jumpRelative(i) }
                }
            }
        ),
        (.call, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.callRelative(i) } }),
        (.loop, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.loop(i) { true } } }),
        (
            .loope,
            { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.loop(i) { cpu.loopCondition(i, true) } } }
        ),
        (
            .loopne,
            { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.loop(i) { cpu.loopCondition(i, false) } } }
        ),
        (
            .jcxz,
            {
                stepAny($0, $1) { cpu, i throws(Fault) in
                    if cpu.gpr(Register.rcx) & CPU.addressMask(i.addressSize) == 0 { try cpu.jumpRelative(i) }
                }
            }
        ),
    ]

    private static let strings: [(Mnemonic, Handler)] = [
        (.movs, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.moveString(i) } }),
        (.stos, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.storeString(i) } }),
        (.lods, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.loadString(i) } }),
        (.scas, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.scanString(i) } }),
        (.cmps, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.compareString(i) } }),
    ]

    private static let miscellany: [(Mnemonic, Handler)] = [
        (.clc, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.setCarry(false) } }),
        (.stc, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.setCarry(true) } }),
        (.cmc, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.setCarry(!cpu.carryFlag) } }),
        (.cld, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.s.otherFlags &= ~(1 << 10) } }),
        (.std, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.s.otherFlags |= 1 << 10 } }),
        (
            .lahf,
            {
                stepAny($0, $1) { cpu, i throws(Fault) in
                    cpu.setRegister(1, UInt8(truncatingIfNeeded: cpu.rflags & 0xD7))
                }
            }
        ),
        (
            .sahf,
            {
                stepAny($0, $1) { cpu, i throws(Fault) in
                    let high = UInt64(cpu.register(UInt8.self, 1)) & 0xD5
                    cpu.setStatusFlags(high | (cpu.overflowFlag ? 1 << 11 : 0))
                }
            }
        ),
        (
            .salc,
            {
                stepAny($0, $1) { cpu, i throws(Fault) in cpu.setRegister(0, UInt8(cpu.carryFlag ? 0xFF : 0))
                }
            }
        ),
        (.pause, { stepAny($0, $1) { cpu, i throws(Fault) in cpu.spinHint() } }),
        (.mfence, { stepAny($0, $1) { cpu, i throws(Fault) in CPU.fullFence() } }),
        (.rdrand, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.randomNumber(i) } }),
        (.rdseed, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.randomNumber(i) } }),
    ]
}
