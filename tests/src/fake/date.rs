//! Dates of IMAP: `"17-Jul-1996 02:44:25 -0700"` and `17-Jul-1996`.
//!
//! Rule: the proleptic Gregorian calendar in UTC; what cannot be read is `None`.

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY: i64 = 86_400;

/// Seconds since 1970 as INTERNALDATE shows them.
pub(super) fn format(seconds: i64) -> String {
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let time = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let month = MONTHS[usize::try_from(month - 1).unwrap_or_default()];
    format!("{day:02}-{month}-{year:04} {hour:02}:{minute:02}:{second:02} +0000")
}

/// The date-time of APPEND.
pub(super) fn parse(text: &str) -> Option<i64> {
    let mut words = text.split_whitespace();
    let (date, time, zone) = (words.next()?, words.next()?, words.next()?);
    let mut parts = time.split(':').map(|p| p.parse::<i64>().ok());
    let seconds = parts.next()?? * 3600 + parts.next()?? * 60 + parts.next()??;
    let offset: i64 = zone.parse().ok()?;
    Some(day(date)? * DAY + seconds - (offset / 100 * 3600 + offset % 100 * 60))
}

/// The date of a search key, as days since 1970.
pub(super) fn day(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let day: i64 = parts.next()?.trim().parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(name))?;
    Some(days(parts.next()?.parse().ok()?, i64::try_from(month).ok()? + 1, day))
}

/// Days since 1970 of a civil date (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let in_era = year.rem_euclid(400);
    era * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + of_year - 719_468
}

/// The inverse.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let of_era = days.rem_euclid(146_097);
    let in_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * in_era + in_era / 4 - in_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = in_era + days.div_euclid(146_097) * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::{day, format, parse};

    #[test]
    fn a_date_survives_both_ways() {
        for text in ["17-Jul-1996 02:44:25 +0000", "29-Feb-2024 23:59:59 +0000", "01-Jan-1970 00:00:00 +0000"]
        {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(format(parse("17-Jul-1996 02:44:25 -0730").unwrap()), "17-Jul-1996 10:14:25 +0000");
        assert_eq!(day("2-jan-1970"), Some(1));
        assert_eq!(parse("nonsense"), None);
    }
}
