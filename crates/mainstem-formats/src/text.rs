//! Text of single SQL values to numbers, times and intervals, and back. No JSON here.

pub(crate) mod datetime;
pub(crate) mod interval;
pub(crate) mod number;
