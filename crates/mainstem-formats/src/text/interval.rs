//! Intervals as text: PostgreSQL's `1 year 2 mons -3 days 04:05:06.7`, and ISO 8601's `P1Y2M-3DT4H5M6.7S`.
//!
//! Months, days and nanoseconds are kept apart. Fractions are taken for units up to an hour only: a part of a day or
//! of a month has no exact length.

use arrow::datatypes::IntervalMonthDayNano;

use super::datetime::write_clock;
use super::number::{Rounding, scaled};

const SECOND_NS: i128 = 1_000_000_000;

#[derive(Clone, Copy)]
enum Unit {
    Months(i128),
    Days(i128),
    Nanos(i128),
}

#[derive(Default)]
struct Sum {
    months: i128,
    days: i128,
    nanos: i128,
}

impl Sum {
    /// Adds `billionths` / 1e9 of `unit`.
    fn add(&mut self, billionths: i128, unit: Unit) -> Option<()> {
        let whole = |size: i128| {
            let product = billionths.checked_mul(size)?;
            (product % SECOND_NS == 0).then_some(product / SECOND_NS)
        };
        match unit {
            Unit::Months(size) => self.months = self.months.checked_add(integral(billionths)?.checked_mul(size)?)?,
            Unit::Days(size) => self.days = self.days.checked_add(integral(billionths)?.checked_mul(size)?)?,
            Unit::Nanos(size) => self.nanos = self.nanos.checked_add(whole(size)?)?,
        }
        Some(())
    }

    fn finish(self, negate: bool) -> Option<IntervalMonthDayNano> {
        let sign = if negate { -1 } else { 1 };
        Some(IntervalMonthDayNano::new(
            i32::try_from(self.months.checked_mul(sign)?).ok()?,
            i32::try_from(self.days.checked_mul(sign)?).ok()?,
            i64::try_from(self.nanos.checked_mul(sign)?).ok()?,
        ))
    }
}

fn integral(billionths: i128) -> Option<i128> {
    (billionths % SECOND_NS == 0).then_some(billionths / SECOND_NS)
}

pub(crate) fn parse(text: &str) -> Option<IntervalMonthDayNano> {
    match text.strip_prefix(['P', 'p']) {
        Some(rest) => parse_iso(rest),
        None => parse_postgres(text),
    }
}

fn parse_postgres(text: &str) -> Option<IntervalMonthDayNano> {
    let mut rest = text.strip_prefix('@').unwrap_or(text).trim();
    let mut sum = Sum::default();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        if rest.eq_ignore_ascii_case("ago") {
            return sum.finish(true);
        }
        let (number, behind) = take_number(rest)?;
        if behind.starts_with(':') {
            let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
            sum.add(clock(&rest[..end])?, Unit::Nanos(1))?;
            rest = rest[end..].trim_start();
            continue;
        }
        let behind = behind.trim_start();
        let end = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        sum.add(scaled(number, 9, Rounding::Exact)?, unit(&behind[..end])?)?;
        rest = behind[end..].trim_start();
    }
    sum.finish(false)
}

fn parse_iso(text: &str) -> Option<IntervalMonthDayNano> {
    let mut rest = text;
    let mut sum = Sum::default();
    let mut in_time = false;
    if rest.is_empty() || rest.ends_with(['T', 't']) {
        return None;
    }
    while !rest.is_empty() {
        if !in_time && let Some(behind) = rest.strip_prefix(['T', 't']) {
            in_time = true;
            rest = behind;
            continue;
        }
        let (number, behind) = take_number(rest)?;
        let unit = match (behind.as_bytes().first()?.to_ascii_uppercase(), in_time) {
            (b'Y', false) => Unit::Months(12),
            (b'M', false) => Unit::Months(1),
            (b'W', false) => Unit::Days(7),
            (b'D', false) => Unit::Days(1),
            (b'H', true) => Unit::Nanos(3600 * SECOND_NS),
            (b'M', true) => Unit::Nanos(60 * SECOND_NS),
            (b'S', true) => Unit::Nanos(SECOND_NS),
            _ => return None,
        };
        sum.add(scaled(number, 9, Rounding::Exact)?, unit)?;
        rest = &behind[1..];
    }
    sum.finish(false)
}

fn take_number(text: &str) -> Option<(&str, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let length = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    (length > 0).then(|| text.split_at(text.len() - unsigned.len() + length))
}

/// `[+-]HH:MM[:SS[.fraction]]` in billionths of a nanosecond, the scale that [`Sum::add`] takes.
fn clock(text: &str) -> Option<i128> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let hours = clock_part(parts.next()?, 0)?;
    let minutes = clock_part(parts.next()?, 0).filter(|minutes| *minutes < 60)?;
    let seconds_ns = parts.next().map_or(Some(0), |text| clock_part(text, 9)).filter(|ns| *ns < 60 * SECOND_NS)?;
    if parts.next().is_some() {
        return None;
    }
    let nanos = hours.checked_mul(3600 * SECOND_NS)?.checked_add(minutes * 60 * SECOND_NS + seconds_ns)?;
    nanos.checked_mul(if text.starts_with('-') { -SECOND_NS } else { SECOND_NS })
}

fn clock_part(text: &str, scale: i32) -> Option<i128> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || (byte == b'.' && scale > 0)) {
        return None;
    }
    scaled(text, scale, Rounding::Exact)
}

fn unit(name: &str) -> Option<Unit> {
    let lower = name.to_ascii_lowercase();
    Some(match lower.as_str() {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" => Unit::Nanos(1_000),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => Unit::Nanos(1_000_000),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Nanos(SECOND_NS),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Nanos(60 * SECOND_NS),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Nanos(3600 * SECOND_NS),
        "d" | "day" | "days" => Unit::Days(1),
        "w" | "week" | "weeks" => Unit::Days(7),
        "mon" | "mons" | "month" | "months" => Unit::Months(1),
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12),
        "decade" | "decades" => Unit::Months(120),
        "century" | "centuries" => Unit::Months(1_200),
        "millennium" | "millennia" => Unit::Months(12_000),
        _ => return None,
    })
}

/// PostgreSQL's own style; a part that follows a negative one carries its sign, as PostgreSQL writes it.
pub(crate) fn write(value: IntervalMonthDayNano, out: &mut Vec<u8>) {
    let mut after_negative = false;
    let start = out.len();
    for (amount, one, many) in
        [(value.months / 12, "year", "years"), (value.months % 12, "mon", "mons"), (value.days, "day", "days")]
    {
        if amount == 0 {
            continue;
        }
        separate(start, out);
        if after_negative && amount > 0 {
            out.push(b'+');
        }
        out.extend_from_slice(itoa::Buffer::new().format(amount).as_bytes());
        out.push(b' ');
        out.extend_from_slice(if amount == 1 { one } else { many }.as_bytes());
        after_negative = amount < 0;
    }
    if value.nanoseconds != 0 || out.len() == start {
        separate(start, out);
        if value.nanoseconds < 0 {
            out.push(b'-');
        } else if after_negative {
            out.push(b'+');
        }
        write_clock(value.nanoseconds.unsigned_abs(), out);
    }
}

fn separate(start: usize, out: &mut Vec<u8>) {
    if out.len() > start {
        out.push(b' ');
    }
}
