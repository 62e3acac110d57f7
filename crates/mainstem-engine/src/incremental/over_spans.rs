//! Which rows of a partition a change can touch, and what of the rows before them has to be known.
//!
//! Words: functions *reach* back and forth by rows (`lag`, `ROWS 3 PRECEDING`) or by values of the one key of the order
//! (`RANGE '1 hour' PRECEDING`); *running* ones (`row_number`, `sum` from the beginning up to the row) reach all rows behind. Rows that the
//! order does not tell apart are *peers*. A *span* is a piece of the order, by the bytes of its first row and those behind its
//! last.
//!
//! Always true here: a row outside of the spans of all changes has the same functions before and after them; the functions of
//! a span's rows follow from the rows of its *context* and the values that running functions have just before it.

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::IntervalMonthDayNano;
use datafusion::common::ScalarValue;
use mainstem_sql::{FrameBound, FrameUnits, Literal, Scalar, WindowFunction};

use super::multiset::OrderedMultiset;
use crate::delta::RowKeys;

/// How a running function goes on from its value just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Running {
    /// The number of rows before is added.
    Position,
    /// The value before is added.
    Sum,
    /// The less of both.
    Least,
    /// The greater of both.
    Greatest,
    /// The value before.
    First,
}

/// A piece of the order: from these bytes on, up to before those; none for the end.
pub(super) type Span = (Vec<u8>, Option<Vec<u8>>);

/// What the functions of one operator reach.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Rows before a row that its functions look at.
    back: i64,
    /// Rows behind it.
    forth: i64,
    /// Peers have the same functions.
    pub(super) has_peers: bool,
    /// Distances by value, back and forth; a descending order turns them round.
    by_value: Vec<(Option<ScalarValue>, Option<ScalarValue>)>,
    descending: bool,
    /// By function: how it goes on, if it is a running one.
    pub(super) running: Vec<Option<Running>>,
}

impl Reach {
    /// None if a function is to be computed from the whole partition.
    pub(super) fn of(functions: &[WindowFunction], order: &[SortOptions]) -> Option<Reach> {
        let mut reach = Reach { descending: order.first().is_some_and(|key| key.descending), ..Reach::default() };
        for function in functions {
            if !function.is_piecewise(order.len()) {
                return None;
            }
            let running = reach.add(function, order.len())?;
            reach.running.push(running);
        }
        Some(reach)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.iter().any(Option::is_some)
    }

    fn add(&mut self, function: &WindowFunction, keys: usize) -> Option<Option<Running>> {
        match function.name.as_str() {
            "row_number" => return Some(Some(Running::Position)),
            "rank" => {
                self.has_peers = true;
                return Some(Some(Running::Position));
            }
            "lag" | "lead" => {
                let offset = function.arguments.get(1).map_or(Some(1), |offset| match offset {
                    Scalar::Literal(literal) => whole(literal),
                    _ => None,
                })?;
                let side = if function.name == "lag" { &mut self.back } else { &mut self.forth };
                *side = offset.max(*side);
                return Some(None);
            }
            "dense_rank" | "percent_rank" | "cume_dist" | "ntile" => return None,
            _ => {}
        }
        let (frame, is_rows) = (&function.frame, function.frame.units == FrameUnits::Rows);
        if let (FrameBound::Preceding(distance), FrameBound::CurrentRow) = (&frame.start, &frame.end)
            && is_unbounded(distance)
        {
            self.has_peers |= !is_rows;
            return running(function).map(Some).or_else(|| (function.name == "last_value").then_some(None));
        }
        if is_rows {
            self.back = rows(&frame.start, true)?.max(rows(&frame.end, true)?).max(self.back);
            self.forth = rows(&frame.start, false)?.max(rows(&frame.end, false)?).max(self.forth);
            return Some(None);
        }
        let back = match &frame.start {
            FrameBound::CurrentRow => None,
            FrameBound::Preceding(distance) if !is_unbounded(distance) => Some(distance.to_value().ok()?),
            _ => return None,
        };
        let forth = match &frame.end {
            FrameBound::CurrentRow => None,
            FrameBound::Following(distance) if !is_unbounded(distance) => Some(distance.to_value().ok()?),
            _ => return None,
        };
        self.has_peers = true;
        if back.is_some() || forth.is_some() {
            if frame.units != FrameUnits::Range || keys != 1 {
                return None;
            }
            self.by_value.push((back, forth));
        }
        Some(None)
    }

    /// The rows that a change of the row with these ordered bytes can touch. `rows` is the partition before it or after it.
    pub(super) fn touched(&self, row: &[u8], rows: &OrderedMultiset, sort: &RowKeys) -> Span {
        let place = rows.rank(row);
        let mut from = row.to_vec();
        if self.forth > 0
            && let Some(first) = rows.select((place - self.forth).max(0)).filter(|first| *first < row)
        {
            from = first.to_vec();
        }
        let mut until = Some(behind(row));
        let last = (place + rows.count(row)).saturating_add(self.back) - 1;
        if self.back > 0
            && let Some(last) = rows.select(last.min(rows.total() - 1)).filter(|last| *last > row)
        {
            until = Some(behind(last));
        }
        if self.has_peers {
            let key = sort_key(row);
            from = from.min(key.to_vec());
            until = match (until, successor(key)) {
                (Some(until), Some(peers)) => Some(until.max(peers)),
                _ => None,
            };
        }
        for (back, forth) in &self.by_value {
            // A row looks at this one if it lies within the contrary distances.
            let (forth, back) = (forth.as_ref().map(widened), back.as_ref().map(widened));
            let (first, last) = self.edges(sort_key(row), sort, forth.as_ref(), back.as_ref());
            from = from.min(first);
            until = until.zip(last).map(|(until, last)| until.max(last));
        }
        if self.is_running() {
            until = None;
        }
        (from, until)
    }

    /// The places of the rows that the functions of `places` look at, but for what is before running ones.
    pub(super) fn context(&self, places: (i64, i64), rows: &OrderedMultiset, sort: &RowKeys) -> (i64, i64) {
        let (mut from, mut until) = ((places.0 - self.back).max(0), (places.1 + self.forth).min(rows.total()));
        for (back, forth) in &self.by_value {
            if let Some(first) = rows.select(places.0) {
                let edge = self.edges(sort_key(first), sort, back.as_ref(), None).0;
                from = from.min(rows.rank(&edge));
            }
            if let Some(last) = rows.select(places.1 - 1) {
                let edge = self.edges(sort_key(last), sort, None, forth.as_ref()).1;
                until = until.max(edge.map_or(rows.total(), |edge| rows.rank(&edge)));
            }
        }
        if self.has_peers {
            from = rows.select(from).map_or(from, |first| rows.rank(sort_key(first)));
            if let Some(last) = rows.select(until - 1) {
                until = successor(sort_key(last)).map_or(rows.total(), |edge| rows.rank(&edge));
            }
        }
        (from, until)
    }

    /// The bytes of the order at these distances from a value, to both sides, with the value's own peers. What cannot be computed is the
    /// end of the partition.
    fn edges(
        &self,
        key: &[u8],
        sort: &RowKeys,
        back: Option<&ScalarValue>,
        forth: Option<&ScalarValue>,
    ) -> (Vec<u8>, Option<Vec<u8>>) {
        let value = sort.decode_columns([key]).first().and_then(|column| ScalarValue::try_from_array(column, 0).ok());
        let Some(value) = value.filter(|value| !value.is_null()) else { return (key.to_vec(), successor(key)) };
        let moved = |distance: Option<&ScalarValue>, is_back: bool| -> Option<Vec<u8>> {
            let Some(distance) = distance else { return Some(key.to_vec()) };
            let moved = match is_back == self.descending {
                true => value.add_checked(distance).ok()?,
                false => value.sub_checked(distance).ok()?,
            };
            let column: ArrayRef = moved.cast_to(&value.data_type()).ok()?.to_array().ok()?;
            Some(sort.encode(&[column], 1).get(0).to_vec())
        };
        (moved(back, true).unwrap_or_default(), moved(forth, false).and_then(|edge| successor(&edge)))
    }
}

/// A distance that is enough the other way round: the month before 31 March begins on 28 February, the month after that ends on
/// 28 March.
fn widened(distance: &ScalarValue) -> ScalarValue {
    match distance {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months != 0 => {
            let days = interval.days.saturating_add(3);
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { days, ..*interval }))
        }
        ScalarValue::IntervalYearMonth(Some(months)) => {
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(*months, 3, 0)))
        }
        other => other.clone(),
    }
}

fn is_unbounded(distance: &Literal) -> bool {
    distance.to_value().is_ok_and(|value| value.is_null())
}

fn whole(literal: &Literal) -> Option<i64> {
    match literal.to_value().ok()?.cast_to(&arrow::datatypes::DataType::Int64).ok()? {
        ScalarValue::Int64(Some(value)) if (0..i64::from(u32::MAX)).contains(&value) => Some(value),
        _ => None,
    }
}

/// How far a bound of rows reaches to one side.
fn rows(bound: &FrameBound, is_back: bool) -> Option<i64> {
    let distance = |distance: &Literal, counts: bool| whole(distance).map(|distance| if counts { distance } else { 0 });
    match bound {
        FrameBound::CurrentRow => Some(0),
        FrameBound::Preceding(of) => distance(of, is_back),
        FrameBound::Following(of) => distance(of, !is_back),
    }
}

/// How an aggregate from the beginning up to the row goes on. Sums of floats do not follow from the sum before.
fn running(function: &WindowFunction) -> Option<Running> {
    let is_exact = !function.result.contains("Float");
    match function.name.as_str() {
        "count" => Some(Running::Sum),
        "sum" if is_exact => Some(Running::Sum),
        "min" if is_exact => Some(Running::Least),
        "max" if is_exact => Some(Running::Greatest),
        "first_value" => Some(Running::First),
        _ => None,
    }
}

impl Running {
    /// The value of a row from that of its own context and the value before the context, behind `place` rows. None if it cannot be
    /// had this way.
    pub(super) fn follow(self, local: ScalarValue, before: &ScalarValue, place: i64) -> Option<ScalarValue> {
        let is_less = |one: &ScalarValue, other: &ScalarValue| one.partial_cmp(other).map(std::cmp::Ordering::is_lt);
        Some(match self {
            Running::Position => {
                local.add_checked(ScalarValue::Int64(Some(place)).cast_to(&local.data_type()).ok()?).ok()?
            }
            Running::First => before.clone(),
            _ if before.is_null() => local,
            _ if local.is_null() => before.clone(),
            Running::Sum => {
                let data_type = local.data_type();
                let sum = local.add_checked(before).ok()?;
                if sum.data_type() == data_type { sum } else { sum.cast_to(&data_type).ok()? }
            }
            Running::Least => {
                if is_less(before, &local)? {
                    before.clone()
                } else {
                    local
                }
            }
            Running::Greatest => {
                if is_less(before, &local)? {
                    local
                } else {
                    before.clone()
                }
            }
        })
    }
}

/// Spans as few, in order, that do not overlap.
pub(super) fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::new();
    for (from, until) in spans {
        match merged.last_mut() {
            Some((_, last)) if last.as_ref().is_none_or(|last| *last >= from) => {
                *last = last.take().zip(until).map(|(last, until)| last.max(until));
            }
            _ => merged.push((from, until)),
        }
    }
    merged
}

/// The bytes of the sort key in ordered bytes.
pub(super) fn sort_key(ordered: &[u8]) -> &[u8] {
    let (rest, length) = ordered.split_last_chunk::<4>().expect("ordered bytes end with a length");
    &rest[..u32::from_le_bytes(*length) as usize]
}

fn behind(row: &[u8]) -> Vec<u8> {
    [row, &[0]].concat()
}

/// The first bytes behind all that begin with these.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}
