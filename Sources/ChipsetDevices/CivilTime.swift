/// A date and time of the proleptic Gregorian calendar, without zone or leap seconds.
struct CivilTime: Equatable, Sendable {
    var year: Int
    /// 1...12.
    var month: Int
    /// 1...31.
    var day: Int
    var hour: Int
    var minute: Int
    var second: Int

    private static let secondsPerDay: Int64 = 86_400
    /// Days in 400 years, after which the calendar repeats.
    private static let daysPerEra = 146_097
    /// Days from 1 March of year 0 to 1 January 1970.
    private static let epochDay = 719_468

    /// Days of a year that begins on 1 March, before its month 0 (March)...11 (February).
    private static func daysBefore(marchMonth: Int) -> Int { (153 * marchMonth + 2) / 5 }

    /// The time `seconds` after 1970-01-01 00:00:00; may be negative. Years beyond 99,999 are not needed.
    init(secondsSinceEpoch seconds: Int64) {
        let limit: Int64 = 4_000_000_000_000
        let bounded = max(-limit, min(limit, seconds))
        let dayNumber = Int(bounded.flooredQuotient(Self.secondsPerDay))
        let inDay = Int(bounded - Int64(dayNumber) * Self.secondsPerDay)
        (hour, minute, second) = (inDay / 3600, inDay / 60 % 60, inDay % 60)
        let sinceMarch = dayNumber + Self.epochDay
        let era = Int(Int64(sinceMarch).flooredQuotient(Int64(Self.daysPerEra)))
        let dayOfEra = sinceMarch - era * Self.daysPerEra
        // Take out the leap days: one in 1,461 days, less one in 36,524, plus the last of the era.
        let leapless = dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096
        let yearOfEra = leapless / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - Self.daysBefore(marchMonth: marchMonth) + 1
        month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        year = era * 400 + yearOfEra + (month <= 2 ? 1 : 0)
    }

    init(year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int) {
        (self.year, self.month, self.day) = (year, month, day)
        (self.hour, self.minute, self.second) = (hour, minute, second)
    }

    private var dayNumber: Int64 {
        let marchYear = Int64(month <= 2 ? year - 1 : year)
        let era = marchYear.flooredQuotient(400)
        let yearOfEra = marchYear - era * 400
        let marchMonth = month > 2 ? month - 3 : month + 9
        let dayOfYear = Int64(Self.daysBefore(marchMonth: marchMonth) + day - 1)
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return era * Int64(Self.daysPerEra) + dayOfEra - Int64(Self.epochDay)
    }

    /// Seconds since 1970-01-01 00:00:00; fields past their range carry over.
    var secondsSinceEpoch: Int64 {
        dayNumber * Self.secondsPerDay + Int64(hour) * 3600 + Int64(minute) * 60 + Int64(second)
    }

    /// 0 Sunday...6 Saturday.
    var weekday: Int { Int(dayNumber - (dayNumber + 4).flooredQuotient(7) * 7 + 4) % 7 }
}

extension Int64 {
    /// Division that rounds towards minus infinity; `divisor` is positive.
    func flooredQuotient(_ divisor: Int64) -> Int64 {
        let quotient = self / divisor
        return self % divisor < 0 ? quotient - 1 : quotient
    }
}
