//! Parses HTTP dates, in their three formats (RFC 9110 section 5.6.7), and RFC 3339 dates into seconds since 1970.

use crate::json::lenient::decimal;

/// Parses an HTTP date in one of the three formats, which are all in UTC.
///
/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`. `now` (seconds
/// since 1970) decides the century of a two-digit year: a date that appears to be more than 50 years ahead is in the past.
pub(crate) fn http_date(text: &str, now: i64) -> Option<i64> {
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    if !is_weekday(words.first()?) {
        return None;
    }
    let (day, month, year, time) = match words[1..] {
        [day, month, year, time, "GMT"] if year.len() == 4 => (day, month, number(year)?, time),
        [date, time, "GMT"] => {
            let mut parts = date.split('-');
            let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
            if parts.next().is_some() || year.len() != 2 {
                return None;
            }
            (day, month, century(number(year)?, now), time)
        }
        [month, day, time, year] if year.len() == 4 => (day, month, number(year)?, time),
        _ => return None,
    };
    epoch(year, month_number(month)?, digits(day)?, time)
}

/// Parses a date and time of RFC 3339, `2025-03-15T09:38:18Z`, or with a space and `UTC`, as some gateways send it.
/// Fractions of a second are dropped.
pub(crate) fn rfc3339(text: &str) -> Option<i64> {
    let (date, rest) = text.trim().split_once(['T', 't', ' '])?;
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, digits(parts.next()?)?, digits(parts.next()?)?);
    let (time, zone) = rest.split_at_checked(8)?;
    let zone = zone.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).trim_start();
    let ahead = match zone.split_at_checked(1) {
        _ if zone.eq_ignore_ascii_case("z") || zone == "UTC" => 0,
        Some((sign @ ("+" | "-"), offset)) => {
            let (hours, minutes) = offset.split_once(':')?;
            let seconds = digits(hours)? * 3600 + digits(minutes)? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    if parts.next().is_some() || year.len() != 4 || !(1..=12).contains(&month) {
        return None;
    }
    Some(epoch(number(year)?, month, day, time)? - ahead)
}

fn is_weekday(word: &str) -> bool {
    const NAMES: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    NAMES.iter().any(|name| word == *name || word == &name[..3])
}

fn month_number(word: &str) -> Option<i64> {
    const NAMES: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    NAMES.iter().position(|name| word == *name).map(|index| index as i64 + 1)
}

/// Parses one or two digits.
fn digits(word: &str) -> Option<i64> {
    if word.len() <= 2 { number(word) } else { None }
}

/// Parses digits; a sign is rejected.
fn number(word: &str) -> Option<i64> {
    decimal(word.as_bytes())?.try_into().ok()
}

/// The year for a two-digit year: the latest one that is at most 50 years ahead.
fn century(two_digits: i64, now: i64) -> i64 {
    let this_year = 1970 + now / 31_556_952; // a mean Gregorian year in seconds
    let year = this_year - this_year.rem_euclid(100) + two_digits;
    match year - this_year {
        51.. => year - 100,
        ..=-50 => year + 100,
        _ => year,
    }
}

/// Seconds since 1970 of a date and a time of day `hh:mm:ss`. A leap second counts as the next second.
fn epoch(year: i64, month: i64, day: i64, time: &str) -> Option<i64> {
    let mut parts = time.split(':');
    let (hour, minute, second) = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    let in_range = (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if parts.next().is_some() || !in_range {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The number of days since 1970-01-01 in the Gregorian calendar. Years begin in March, so that the leap day is the last
/// day. After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000; // 2023

    #[test]
    fn the_three_forms_of_rfc_9110() {
        let cases = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Fri, 31 Dec 1999 23:59:59 GMT", 946_684_799),
            ("Thu, 29 Feb 2024 12:00:00 GMT", 1_709_208_000),
            ("Friday, 29-Sep-23 16:26:57 GMT", 1_696_004_817),
        ];
        for (text, seconds) in cases {
            assert_eq!(http_date(text, NOW), Some(seconds), "{text}");
        }
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead() {
        for (this_year, two_digits, year) in [
            (2026, 0, 2000),
            (2026, 26, 2026),
            (2026, 76, 2076),
            (2026, 77, 1977),
            (2060, 10, 2110),
            (2060, 11, 2011),
            (2060, 99, 2099),
        ] {
            let now = (this_year - 1970) * 31_556_952 + 86_400;
            assert_eq!(century(two_digits, now), year, "{two_digits} in {this_year}");
        }
    }

    #[test]
    fn the_forms_of_rfc_3339() {
        let cases = [
            ("2025-03-15T09:38:18Z", Some(1_742_031_498)),
            ("2025-03-15t09:38:18.123456z", Some(1_742_031_498)),
            ("2025-03-15 09:38:18 UTC", Some(1_742_031_498)),
            ("2025-03-15T11:38:18+02:00", Some(1_742_031_498)),
            ("2025-03-15T09:08:18-00:30", Some(1_742_031_498)),
            ("2025-03-15T09:38:18", None),
            ("2025-13-15T09:38:18Z", None),
            ("2025-03-15", None),
            ("2025-03-15T09:38:é8Z", None),
            ("-2025-03-15T09:38:18Z", None),
            ("", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(rfc3339(text), seconds, "{text}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "soon",
            "Zun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 06 Nov 100000 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sunday, 06-Nov-+9 08:49:37 GMT",
            "Sun, 06 Nov -999 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94-1 08:49:37 GMT",
            "Sun, 06 Nov ﬁ94 08:49:37 GMT",
        ] {
            assert_eq!(http_date(text, NOW), None, "{text}");
        }
    }
}
