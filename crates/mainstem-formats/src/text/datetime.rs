//! Dates, times of day and timestamps: ISO 8601 text and epoch numbers, proleptic Gregorian calendar, UTC.
//!
//! Years outside 0000 to 9999 are written with a sign and at least four digits (ISO's expanded form); year 0 is 1 BC.

use super::number::{self, Rounding, scaled};

const DAY_US: i64 = 86_400_000_000;

/// Days since 1970-01-01. A time of day behind the date is checked and dropped, as PostgreSQL does.
pub(crate) fn date(text: &str) -> Option<i32> {
    let mut cursor = Cursor::new(text);
    let days = cursor.date()?;
    if !cursor.is_at_end() {
        cursor.clock()?;
    }
    i32::try_from(days).ok()
}

/// Microseconds since midnight, below 24:00:00 (Arrow's times end there, PostgreSQL's include it).
pub(crate) fn time(text: &str) -> Option<i64> {
    let mut cursor = Cursor::new(text);
    let micros = cursor.time_of_day()?;
    (cursor.is_at_end() && micros < DAY_US).then_some(micros)
}

/// Microseconds since the epoch, of ISO text or of an epoch number as in [`epoch`].
pub(crate) fn timestamp(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return epoch(text);
    }
    let mut cursor = Cursor::new(text);
    let days = cursor.date()?;
    let within = if cursor.is_at_end() { 0 } else { cursor.clock()? };
    i64::try_from(i128::from(days) * i128::from(DAY_US) + i128::from(within)).ok()
}

/// Microseconds of an epoch number, whose size gives its unit: below 1e11 seconds, below 1e14 milliseconds, below 1e17
/// microseconds, otherwise nanoseconds. Digits below a microsecond are cut (toward the past).
pub(crate) fn epoch(text: &str) -> Option<i64> {
    if let Some(number) = number::integer(text) {
        return match number.unsigned_abs() {
            0..100_000_000_000 => Some(number * 1_000_000),
            100_000_000_000..100_000_000_000_000 => Some(number * 1_000),
            100_000_000_000_000..100_000_000_000_000_000 => Some(number),
            _ => Some(number.div_euclid(1_000)),
        };
    }
    let billionths = scaled(text, 9, Rounding::Floor)?;
    let magnitude = billionths.unsigned_abs() / 1_000_000_000;
    let divisor = match magnitude {
        0..100_000_000_000 => 1_000,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000_000_000,
        _ => 1_000_000_000_000,
    };
    i64::try_from(billionths.div_euclid(divisor)).ok()
}

pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_of_days(days);
    if (0..=9999).contains(&year) {
        write_padded(year.unsigned_abs(), 4, out);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        write_padded(year.unsigned_abs(), 4, out);
    }
    out.push(b'-');
    write_padded(month, 2, out);
    out.push(b'-');
    write_padded(day, 2, out);
}

/// `HH:MM:SS`, and a fraction without trailing zeros if there is one.
pub(crate) fn write_time(micros: i64, out: &mut Vec<u8>) {
    write_clock(micros.unsigned_abs().saturating_mul(1000), out);
}

/// As [`write_time`], of nanoseconds, with as many digits for the hours as needed.
pub(crate) fn write_clock(nanos: u64, out: &mut Vec<u8>) {
    let seconds = nanos / 1_000_000_000;
    write_padded(seconds / 3600, 2, out);
    out.push(b':');
    write_padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    write_padded(seconds % 60, 2, out);
    let fraction = nanos % 1_000_000_000;
    if fraction != 0 {
        out.push(b'.');
        write_padded(fraction, 9, out);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

pub(crate) fn write_timestamp(micros: i64, out: &mut Vec<u8>) {
    write_date(micros.div_euclid(DAY_US), out);
    out.push(b'T');
    write_time(micros.rem_euclid(DAY_US), out);
}

fn write_padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

/// Days from 1970-01-01 to the first of March of `year` is linear in whole years plus the leap days, so years are counted
/// from March: February, the odd month, comes last.
fn days_of_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - MARCH_OF_YEAR_0
}

/// Days from 0000-03-01 to 1970-01-01.
const MARCH_OF_YEAR_0: i64 = 719_468;

fn civil_of_days(days: i64) -> (i64, u64, u64) {
    let since = days + MARCH_OF_YEAR_0;
    let cycle = since.div_euclid(146_097);
    let of_cycle = since.rem_euclid(146_097);
    let year_of_cycle = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100);
    let month = (of_year * 5 + 2) / 153;
    let day = of_year - (month * 153 + 2) / 5 + 1;
    let (carry, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (cycle * 400 + year_of_cycle + carry, month.unsigned_abs(), day.unsigned_abs())
}

fn month_length(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.as_bytes() }
    }

    fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn eat(&mut self, wanted: u8) -> bool {
        let found = self.rest.first() == Some(&wanted);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    /// Between `min` and `max` digits, as many as there are: their value and their number.
    fn digits(&mut self, min: usize, max: usize) -> Option<(i64, usize)> {
        let length = self.rest.iter().take(max).take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        let value = digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        (length >= min).then_some((value, length))
    }

    fn two_digits(&mut self, max: i64) -> Option<i64> {
        self.digits(2, 2).map(|(value, _)| value).filter(|value| *value <= max)
    }

    fn date(&mut self) -> Option<i64> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        let (magnitude, _) = self.digits(4, 7)?;
        let year = if negative { -magnitude } else { magnitude };
        let month = self.eat(b'-').then(|| self.two_digits(12)).flatten()?;
        let day = self.eat(b'-').then(|| self.two_digits(31)).flatten()?;
        let exists = month >= 1 && day >= 1 && day <= month_length(year, month);
        exists.then(|| days_of_civil(year, month, day))
    }

    /// Separator, time of day and offset, to the end of the text: microseconds since the date's midnight in UTC.
    fn clock(&mut self) -> Option<i64> {
        if !(self.eat(b'T') || self.eat(b't') || self.eat(b' ')) {
            return None;
        }
        let micros = self.time_of_day()?;
        let offset = self.offset()?;
        self.is_at_end().then_some(micros - offset)
    }

    fn time_of_day(&mut self) -> Option<i64> {
        let hour = self.two_digits(24)?;
        let minute = self.eat(b':').then(|| self.two_digits(59)).flatten()?;
        let second = if self.eat(b':') { self.two_digits(60)? } else { 0 };
        let fraction = if self.eat(b'.') { self.fraction_us()? } else { 0 };
        let micros = (hour * 3600 + minute * 60 + second) * 1_000_000 + fraction;
        (micros <= DAY_US).then_some(micros)
    }

    fn fraction_us(&mut self) -> Option<i64> {
        let (value, length) = self.digits(1, 9)?;
        let nanos = value * 10i64.pow(9 - length as u32);
        Some(nanos / 1000)
    }

    fn offset(&mut self) -> Option<i64> {
        if self.is_at_end() || self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let west = self.eat(b'-');
        if !west && !self.eat(b'+') {
            return None;
        }
        let hours = self.two_digits(23)?;
        let minutes = if self.is_at_end() {
            0
        } else {
            self.eat(b':');
            self.two_digits(59)?
        };
        let micros = (hours * 60 + minutes) * 60_000_000;
        Some(if west { -micros } else { micros })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_nine_thousand_years_round_trips_in_order() {
        let mut previous = (-5000, 0, 0);
        for days in days_of_civil(-4713, 1, 1)..days_of_civil(4500, 1, 1) {
            let (year, month, day) = civil_of_days(days);
            assert!((year, month, day) > previous, "{days}");
            assert!(day as i64 <= month_length(year, month as i64));
            assert_eq!(days_of_civil(year, month as i64, day as i64), days);
            previous = (year, month, day);
        }
        assert_eq!(civil_of_days(0), (1970, 1, 1));
        assert_eq!(days_of_civil(2000, 2, 29), 11_016);
    }
}
