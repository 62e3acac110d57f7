//! What a join's condition says about the distance of two columns, one of each side.
//!
//! `a.ts BETWEEN b.ts - INTERVAL '1 minute' AND b.ts`, `a.window_end = b.window_end`, `a.n < b.n`: the right value lies within a range
//! around the left one. The join keeps rows in that order and meets only those within it. Of event times it also says when a
//! row can have no further partner: its columns settle later by that much, and then the row can be forgotten.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as BinaryOperator;

use super::convert::Convert;
use super::window_close::{Bound, Lineage};
use crate::graph::{Distance, Forget, GraphField, OperatorId, Scalar, parse_type};

/// Of the columns that join conditions compare; more say nothing new that is worth looking for.
const DISTANCES_MAX: usize = 16;

/// All distances between columns of the two sides that the condition bounds.
pub(super) fn distances(
    on: &[(Scalar, Scalar)],
    filter: Option<&Scalar>,
    left: &[GraphField],
    right: &[GraphField],
) -> Vec<Distance> {
    let mut found: Vec<Distance> = Vec::new();
    let mut add = |new: Distance| {
        if !is_ordered(&left[new.left]) || left[new.left].data_type != right[new.right].data_type {
            return;
        }
        match found.iter().position(|known| (known.left, known.right) == (new.left, new.right)) {
            Some(place) => {
                let known = &mut found[place];
                known.least = known.least.max(new.least);
                known.most = [known.most, new.most].into_iter().flatten().min();
            }
            None if found.len() < DISTANCES_MAX => found.push(new),
            None => {}
        }
    };
    for pair in on {
        if let (Scalar::Column(left), Scalar::Column(right)) = pair {
            add(Distance { left: *left, right: *right, least: Some(0), most: Some(0) });
        }
    }
    let conjuncts = match filter {
        Some(Scalar::And(conjuncts)) => conjuncts.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    conjuncts.iter().filter_map(|conjunct| distance(conjunct, left.len())).for_each(add);
    found
}

/// Values that are compared as 64-bit integers.
fn is_ordered(field: &GraphField) -> bool {
    matches!(
        parse_type(&field.data_type),
        Ok(DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Int64 | DataType::Int32 | DataType::Int16)
    )
}

/// Of `left + x op right + y`, over the columns of both sides.
fn distance(conjunct: &Scalar, width: usize) -> Option<Distance> {
    let Scalar::Binary { op, left, right } = conjunct else { return None };
    let (first, second) = (shifted(left)?, shifted(right)?);
    let (of_left, of_right, op) = match (first.0 < width, second.0 < width) {
        (true, false) => (first, second, *op),
        (false, true) => (second, first, op.swap()?),
        _ => return None,
    };
    // right - left is at least, or at most, this.
    let edge = of_left.1.checked_sub(of_right.1)?;
    let (least, most) = match op {
        BinaryOperator::Eq => (Some(edge), Some(edge)),
        BinaryOperator::LtEq => (Some(edge), None),
        BinaryOperator::Lt => (Some(edge.checked_add(1)?), None),
        BinaryOperator::GtEq => (None, Some(edge)),
        BinaryOperator::Gt => (None, Some(edge.checked_sub(1)?)),
        _ => return None,
    };
    Some(Distance { left: of_left.0, right: of_right.0 - width, least, most })
}

/// A column, and what is added to it, in microseconds.
fn shifted(scalar: &Scalar) -> Option<(usize, i64)> {
    match scalar {
        Scalar::Column(column) => Some((*column, 0)),
        Scalar::Binary { op: op @ (BinaryOperator::Plus | BinaryOperator::Minus), left, right } => {
            let ((column, by), more) = match (shifted(left), interval_us(right)) {
                (Some(of), Some(more)) => (of, more),
                _ if *op == BinaryOperator::Plus => (shifted(right)?, interval_us(left)?),
                _ => return None,
            };
            let more = if *op == BinaryOperator::Plus { more } else { more.checked_neg()? };
            Some((column, by.checked_add(more)?))
        }
        _ => None,
    }
}

/// An interval without months, which have no length.
fn interval_us(scalar: &Scalar) -> Option<i64> {
    let Scalar::Literal(literal) = scalar else { return None };
    let ScalarValue::IntervalMonthDayNano(Some(interval)) = literal.to_value().ok()? else { return None };
    if interval.months != 0 || interval.nanoseconds % 1000 != 0 {
        return None;
    }
    (i64::from(interval.days) * 86_400_000_000).checked_add(interval.nanoseconds / 1000)
}

/// A row is settled once the watermark is greater than its value in a column of the one kind and `after_us`: by how much its
/// value in a column of the other kind has to be passed, to be sure.
pub(super) fn in_terms_of(column: Bound, by: Bound, after_us: i64) -> i64 {
    // Beginning with the row's time, which lies within all of its windows.
    let of_time = match by {
        Bound::End(size) | Bound::Ends(size) => after_us.saturating_add(size),
        _ => after_us,
    };
    match column {
        Bound::Time => of_time,
        Bound::Start(size) | Bound::Starts(size) => of_time.saturating_add(size - 1),
        Bound::End(_) | Bound::Ends(_) => of_time.saturating_sub(1),
    }
}

/// What is known of a join's event times.
pub(super) struct Settled {
    /// Of the columns of both sides.
    pub(super) lineage: Vec<Lineage>,
    pub(super) forgets: Vec<Forget>,
}

impl Convert {
    /// When the rows of a join are settled, for EMIT ON WINDOW CLOSE.
    pub(super) fn settled(&mut self, left: OperatorId, right: OperatorId, distances: &[Distance]) -> Settled {
        let of = |side: OperatorId| self.lineage[side.0 as usize].clone();
        let (of_left, of_right) = (of(left), of(right));
        let knows = |lineage: &[Lineage]| lineage.iter().any(|column| column.after_us().is_some());
        let is_stream = [left, right].map(|side| self.is_open[side.0 as usize]);
        if !knows(&of_left) || !knows(&of_right) {
            // A stream with a table: what the table changes behind the watermark is late.
            self.has_unbounded_join |= is_stream == [true, true];
            let kept = |lineage: Vec<Lineage>, is_open: bool| match is_open && is_stream != [true, true] {
                true => lineage,
                false => vec![Lineage::Other; lineage.len()],
            };
            let lineage = [kept(of_left, is_stream[0]), kept(of_right, is_stream[1])].concat();
            return Settled { lineage, forgets: vec![] };
        }
        let of_left_side: Vec<_> =
            distances.iter().filter_map(|known| Some((known.left, known.right, known.most?))).collect();
        let of_right_side: Vec<_> =
            distances.iter().filter_map(|known| Some((known.right, known.left, known.least?.checked_neg()?))).collect();
        let (left, forgets_left) = later(&of_left, &of_right, &of_left_side, 0);
        let (right, forgets_right) = later(&of_right, &of_left, &of_right_side, 1);
        self.has_unbounded_join |= forgets_left.is_none() || forgets_right.is_none();
        let forgets = forgets_left.into_iter().chain(forgets_right).collect();
        Settled { lineage: [left, right].concat(), forgets }
    }
}

/// The columns of one side, settled when no partner comes any more: a partner's value is at most `most` greater than its own. None
/// is known without such a bound.
fn later(
    own: &[Lineage],
    other: &[Lineage],
    bounds: &[(usize, usize, i64)],
    input: usize,
) -> (Vec<Lineage>, Option<Forget>) {
    let known: Vec<(usize, Bound, i64)> = bounds
        .iter()
        .filter_map(|(column, partner, most)| {
            let Lineage::Settles { is, after_us } = own[*column] else { return None };
            let of_partner = other[*partner].after_us()?.checked_add(*most)?;
            Some((*column, is, after_us.max(of_partner)))
        })
        .collect();
    let settled = |(place, lineage): (usize, &Lineage)| {
        let Lineage::Settles { is, after_us } = lineage else { return Lineage::Other };
        let by = |(column, by, after_us): &(usize, Bound, i64)| match *column == place {
            true => *after_us,
            false => in_terms_of(*is, *by, *after_us),
        };
        match known.iter().map(by).min() {
            Some(later_us) => Lineage::Settles { is: *is, after_us: later_us.max(*after_us) },
            None => Lineage::Other,
        }
    };
    let lineage = own.iter().enumerate().map(settled).collect();
    let forget = known.first().map(|(column, _, after_us)| Forget { input, column: *column, after_us: *after_us });
    (lineage, forget)
}
