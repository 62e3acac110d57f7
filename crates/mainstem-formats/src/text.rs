//! Text of single SQL values to numbers, times and intervals, and back. No JSON here.

pub(crate) mod datetime;
pub(crate) mod interval;
pub(crate) mod number;

use arrow::datatypes::IntervalMonthDayNano;

/// An interval as PostgreSQL or ISO 8601 writes it: `1 year 2 mons -3 days 04:05:06.7`, `P1Y2M-3DT4H5M6.7S`.
#[must_use]
pub fn parse_interval(text: &str) -> Option<IntervalMonthDayNano> {
    interval::parse(text)
}

/// `text` times `10^scale` as an integer, half away from zero as PostgreSQL's numeric; an exponent is allowed. `None` if it is
/// no number, or needs more than 38 digits.
#[must_use]
pub fn parse_decimal(text: &str, scale: i32) -> Option<i128> {
    number::scaled(text, scale, number::Rounding::HalfAway)
}
