# Usage: awk -v short=N -f table.awk ROWS TIMES
# Prints the table of `make bench`. A line of TIMES is: row, round, side (ours, tcg or host), seconds. A row
# holds when the median of the ratios of its rounds is at or under its limit; where that is 1.0, 1.05 is
# allowed.

FNR == NR {
    if ($0 ~ /^#/ || NF < 6) next
    rows[++rowCount] = $1
    operations[$1] = $3 == "one" && int($2 / short) > 0 ? int($2 / short) : 1
    limit[$1] = $4
    goal[$1] = $5
    label = $0
    for (i = 1; i <= 5; i++) sub(/^ *[^ ]+ +/, "", label)
    text[$1] = label
    next
}
{
    time[$1, $2, $3] = $4
    if ($2 > rounds) rounds = $2
}

# Sorts list[1..count] in place and returns its median.
function median(list, count,    i, j, value) {
    for (i = 2; i <= count; i++) {
        value = list[i]
        for (j = i - 1; j > 0 && list[j] > value; j--) list[j + 1] = list[j]
        list[j + 1] = value
    }
    return list[int((count + 1) / 2)]
}
function human(seconds) {
    if (seconds < 1e-6) return sprintf("%.2f ns", seconds * 1e9)
    if (seconds < 1e-3) return sprintf("%.2f us", seconds * 1e6)
    if (seconds < 1) return sprintf("%.2f ms", seconds * 1e3)
    return sprintf("%.2f s", seconds)
}
# The median time of an operation, and the lowest and highest.
function summary(row, side,    i, count, list, middle) {
    for (i = 1; i <= rounds; i++) {
        if (!((row, i, side) in time)) continue
        list[++count] = time[row, i, side] / (row in operations ? operations[row] : 1)
    }
    if (!count) return "-"
    middle = median(list, count)
    if (side == "host") return human(middle)
    return human(middle) " (" human(list[1]) "-" human(list[count]) ")"
}
# The median over the rounds of one time by another; sets `low` and `high`. -1: there is none.
function ratio(row, side, other, otherSide,    i, count, list, middle) {
    for (i = 1; i <= rounds; i++) {
        if (time[row, i, side] > 0 && time[other, i, otherSide] > 0) {
            list[++count] = time[row, i, side] / time[other, i, otherSide]
        }
    }
    if (!count) return -1
    middle = median(list, count)
    low = list[1]
    high = list[count]
    return middle
}
function verdict(value, most, wish) {
    if (most == "-") return ""
    if (value > (most == 1 ? 1.05 : most)) { missed++; return "MISSED" }
    held++
    return wish != "-" && value <= wish ? "holds, strived for" : "holds"
}
function columns(a, b, c, d, e, f, g, h) {
    printf "%-51s| %-10s| %-32s| %-32s| %-23s| %-6s| %-7s| %s\n", a, b, c, d, e, f, g, h
}
function line(name, native, ours, theirs, value, most, wish) {
    columns(name, native, ours, theirs, sprintf("%.3f (%.3f-%.3f)", value, low, high), most, wish,
        verdict(value, most, wish))
}
function own(name, most, wish, row, side, other) {
    value = ratio(row, side, other, side)
    if (value >= 0) line(name, "-", summary(row, side), summary(other, side), value, most, wish)
}

END {
    columns("row", "native", "ours", "TCG", "ours/TCG", "limit", "strive", "holds?")
    for (i = 1; i <= rowCount; i++) {
        row = rows[i]
        value = ratio(row, "ours", row, "tcg")
        if (value < 0) continue
        line(text[row], summary(row, "host"), summary(row, "ours"), summary(row, "tcg"), value, limit[row],
            goal[row])
    }
    print ""
    columns("against something of its own", "", "this", "that", "this/that", "limit", "strive", "holds?")
    own("boot of our micro machine against our pc", "0.8", "-", "micro", "ours", "boot")
    own("the same, with the self-tests that micro leaves out", "-", "-", "tested", "ours", "boot")
    own("two gzip jobs on 2 vCPUs against one, ours", "1.2", "1.05", "pair", "ours", "single")
    own("the same, TCG", "-", "-", "pair", "tcg", "single")
    printf "%d rows hold, %d rows MISSED\n", held, missed
}
