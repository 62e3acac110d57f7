//! Dates and times of day as PostgreSQL reads them: ISO 8601, with a space or T between, a zone and BC behind.

use std::str::FromStr;

use arrow::array::timezone::Tz;
use chrono::{NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone};

pub(crate) const DAY_US: i64 = 86_400_000_000;

/// What a text says of a time: the clock on the wall, and the zone of the wall if it is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Microseconds since 1970-01-01 00:00 of the wall's clock.
    pub(crate) local_us: i64,
    zone: Option<Tz>,
}

impl Moment {
    pub(crate) fn read(text: &str) -> Option<Moment> {
        if text.eq_ignore_ascii_case("epoch") {
            return Some(Moment { local_us: 0, zone: None });
        }
        let (text, is_bc) = match text.strip_suffix("BC").or_else(|| text.strip_suffix("bc")) {
            Some(rest) => (rest.trim_end(), true),
            None => (text.strip_suffix("AD").unwrap_or(text).trim_end(), false),
        };
        let end = text.find([' ', 'T', 't']).unwrap_or(text.len());
        let date = read_date(&text[..end], is_bc)?;
        let rest = text.get(end + 1..).unwrap_or("").trim();
        let clock = rest.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(rest.len());
        let time_us = if clock == 0 { 0 } else { read_clock(&rest[..clock])? };
        let zone = match rest[clock..].trim() {
            "" => None,
            name => Some(read_zone(name)?),
        };
        let days = date.signed_duration_since(NaiveDate::default()).num_days();
        Some(Moment { local_us: days.checked_mul(DAY_US)?.checked_add(time_us)?, zone })
    }

    /// Microseconds since the epoch; a text without zone is in UTC.
    pub(crate) fn utc_us(self) -> Option<i64> {
        match self.zone {
            Some(zone) => to_utc(self.local_us, zone),
            None => Some(self.local_us),
        }
    }
}

fn read_date(text: &str, is_bc: bool) -> Option<NaiveDate> {
    let mut parts = text.split('-');
    let year = parts.next()?;
    let number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        let is_number = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<i32>().ok()).flatten()
    };
    let date = match (parts.next(), parts.next(), parts.next()) {
        (Some(month), Some(day), None) => (number(year, 4..=6)?, number(month, 1..=2)?, number(day, 1..=2)?),
        // 20240229
        (None, ..) if year.len() == 8 => {
            (number(&year[..4], 4..=4)?, number(&year[4..6], 2..=2)?, number(&year[6..], 2..=2)?)
        }
        _ => return None,
    };
    let year = match (date.0, is_bc) {
        (0, _) => return None,
        (year, true) => 1 - year,
        (year, false) => year,
    };
    NaiveDate::from_ymd_opt(year, date.1.cast_unsigned(), date.2.cast_unsigned())
}

/// `HH:MM[:SS[.ffffff]]` up to 24:00:00; digits below a microsecond are rounded.
fn read_clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let number = |text: &str, max: i64| text.parse::<i64>().ok().filter(|value| text.len() <= 2 && *value <= max);
    let (hour, minute) = (number(parts.next()?, 24)?, number(parts.next()?, 59)?);
    let second_us = match parts.next() {
        None => 0,
        Some(text) => i64::try_from(mainstem_formats::parse_decimal(text, 6)?).ok().filter(|us| *us <= 60_000_000)?,
    };
    let us = (hour * 60 + minute) * 60_000_000 + second_us;
    (parts.next().is_none() && us <= DAY_US).then_some(us)
}

/// `Z`, `+01`, `-0330`, `+05:30`, `UTC`, `Europe/Berlin`.
pub(crate) fn read_zone(text: &str) -> Option<Tz> {
    if ["z", "utc", "gmt"].contains(&text.to_ascii_lowercase().as_str()) {
        return Tz::from_str("+00:00").ok();
    }
    let digits = text.strip_prefix(['+', '-']);
    match digits {
        Some(digits) if digits.len() <= 2 => {
            let sign = &text[..1];
            Tz::from_str(&format!("{sign}{digits:0>2}:00")).ok()
        }
        _ => Tz::from_str(text).ok(),
    }
}

/// The instant at which a clock in the zone shows this; as PostgreSQL, standard time in the hour that it shows twice, and as if
/// it had not been set forward in one that it skips.
pub(crate) fn to_utc(local_us: i64, zone: Tz) -> Option<i64> {
    let local = naive(local_us)?;
    let resolved = zone.from_local_datetime(&local);
    let offset = match resolved {
        chrono::LocalResult::Single(time) => time.offset().fix(),
        chrono::LocalResult::Ambiguous(_, later) => later.offset().fix(),
        chrono::LocalResult::None => {
            zone.offset_from_utc_datetime(&local.checked_sub_signed(TimeDelta::days(1))?).fix()
        }
    };
    local_us.checked_sub(i64::from(offset.local_minus_utc()) * 1_000_000)
}

/// What a clock in the zone shows at this instant.
pub(crate) fn to_local(utc_us: i64, zone: Tz) -> Option<i64> {
    let offset = zone.offset_from_utc_datetime(&naive(utc_us)?).fix();
    utc_us.checked_add(i64::from(offset.local_minus_utc()) * 1_000_000)
}

pub(crate) fn naive(us: i64) -> Option<NaiveDateTime> {
    let date = NaiveDate::default().checked_add_signed(TimeDelta::try_days(us.div_euclid(DAY_US))?)?;
    Some(date.and_time(NaiveTime::MIN) + TimeDelta::microseconds(us.rem_euclid(DAY_US)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> Option<i64> {
        Moment::read(text)?.utc_us()
    }

    #[test]
    fn what_postgres_reads_is_read() {
        const DAY: i64 = 19_782 * DAY_US; // 2024-02-29
        for (text, us) in [
            ("2024-02-29", DAY),
            ("20240229", DAY),
            ("2024-2-29 0:00", DAY),
            ("2024-02-29 12:00", DAY + DAY_US / 2),
            ("2024-02-29T12:00:00.5Z", DAY + DAY_US / 2 + 500_000),
            ("2024-02-29 12:00:00+01", DAY + DAY_US / 2 - 3_600_000_000),
            ("2024-02-29 12:00:00 -03:30", DAY + DAY_US / 2 + 12_600_000_000),
            ("2024-02-29 12:00 Europe/Berlin", DAY + DAY_US / 2 - 3_600_000_000),
            ("2024-02-29 24:00:00", DAY + DAY_US),
            ("0001-01-01 BC", -719_528 * DAY_US),
            ("epoch", 0),
        ] {
            assert_eq!(utc(text), Some(us), "{text}");
        }
        for text in [
            "",
            "2023-02-29",
            "2024-13-01",
            "2024-02-29 25:00",
            "2024-02-29 12",
            "0000-01-01",
            "x",
            "2024-02-29 12:00 Nowhere",
        ] {
            assert_eq!(utc(text), None, "{text}");
        }
    }

    #[test]
    fn hours_that_a_clock_skips_or_shows_twice_are_read_as_postgres_does() {
        let zone = read_zone("America/New_York").expect("known");
        let at = |text: &str| {
            to_utc(Moment::read(text).expect("reads").local_us, zone).and_then(naive).expect("in range").to_string()
        };
        assert_eq!(at("2013-11-03 01:30"), "2013-11-03 06:30:00");
        assert_eq!(at("2013-03-10 02:30"), "2013-03-10 07:30:00");
        assert_eq!(at("2013-07-01 12:00"), "2013-07-01 16:00:00");
    }
}
