#!/bin/sh
# Assembles every guest test into the folder $1 (nasm from Debian). With a second argument "qemu", also runs
# them under QEMU as a second opinion: it must pass every check but those of qemu-deviations.txt.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh FOLDER [qemu]}
mkdir -p "$out"
status=0
for source in "$here"/*.asm; do
    name=$(basename "$source" .asm)
    # Selector arithmetic such as `~(1 << 16)` is meant to be cut to the operand's size.
    nasm -f bin -w-number-overflow -I "$here/" -o "$out/$name.bin" "$source"
    [ "${2:-}" = qemu ] || continue
    timeout 60 qemu-system-x86_64 -accel tcg -cpu max -m 64 -nic none -display none -no-reboot \
        -serial "file:$out/$name.log" -device isa-debug-exit,iobase=0xf4,iosize=1 \
        -kernel "$out/$name.bin" </dev/null || true
    grep -a '^FAIL ' "$out/$name.log" | sed "s/^FAIL /$name: /" >"$out/$name.failed" || true
    grep -a "^$name: " "$here/qemu-deviations.txt" >"$out/$name.accepted" || true
    if grep -aq '^DONE ' "$out/$name.log" && cmp -s "$out/$name.failed" "$out/$name.accepted"; then
        echo "$name: $(grep -a '^DONE ' "$out/$name.log")"
    else
        echo "$name: not as expected"
        diff "$out/$name.accepted" "$out/$name.failed" || true
        tail -n 1 "$out/$name.log"
        status=1
    fi
done
exit $status
