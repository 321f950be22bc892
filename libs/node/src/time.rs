//! Wall-clock time in the two forms that leave a process.

use std::time::{SystemTime, UNIX_EPOCH};

/// 2000-01-01 00:00 UTC, PostgreSQL's epoch, in microseconds since 1970.
const PG_EPOCH_US: i64 = 946_684_800_000_000;

/// Now, in microseconds since 2000-01-01 00:00 UTC, PostgreSQL's timestamp.
pub fn pg_now() -> i64 {
    unix_us(SystemTime::now()) - PG_EPOCH_US
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn rfc3339_now() -> String {
    rfc3339(SystemTime::now())
}

/// `time` as RFC 3339 in UTC with milliseconds: `2026-11-21T11:22:33.444Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let ms = unix_us(time).div_euclid(1000);
    let (days, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

fn unix_us(time: SystemTime) -> i64 {
    let us = |d: std::time::Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => us(after),
        Err(before) => -us(before.duration()),
    }
}

/// Year, month and day of a day counted from 1970-01-01, proleptic Gregorian calendar. Counting from 1 March puts the
/// leap day at the end of the year, and 400 years always have 146097 days.
fn civil(days_since_1970: i64) -> (i64, i64, i64) {
    let days = days_since_1970 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_times() {
        let at = |s: u64, ms: u64| rfc3339(UNIX_EPOCH + Duration::from_millis(s * 1000 + ms));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_709_251_199, 999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(1_735_689_600, 0), "2025-01-01T00:00:00.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z", "2100 is no leap year");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_millis(1)), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn postgres_counts_from_2000() {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let pg = pg_now() / 1_000_000 + 946_684_800;
        assert!(u64::try_from(pg).expect("after 2000").abs_diff(unix) <= 1);
    }
}
