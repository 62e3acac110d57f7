//! Which rows a query can want, from its conditions: by what the rows of a collection are sorted, in one order or another.
//!
//! Words: an *order* is a version's own or an index's; a *range* is a part of an order by its bytes. Conditions `column =
//! constant`, `IN`, `IS NULL` on the first columns of an order make prefixes; comparisons on the next column narrow each.
//!
//! Always true here: the ranges hold every row that the conditions accept (and perhaps others: conditions are asked again
//! above); ranges of one lookup do not overlap, so that no row comes twice.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};

use crate::collection::{Version, successor};

/// More ranges than this are a scan.
const RANGES_MAX: usize = 10_000;

/// A part of an order: from these bytes on, before those; none: to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: Vec<u8>,
    pub(crate) before: Option<Vec<u8>>,
}

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// The place of the order among [`Version::orders`].
    pub(crate) order: usize,
    /// The columns that the conditions name, as they stand in the order.
    pub(crate) columns: Vec<usize>,
    pub(crate) ranges: Vec<Range>,
}

/// What conditions say about one column.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// It is one of these.
    values: Option<Vec<ScalarValue>>,
    at_least: Option<ScalarValue>,
    at_most: Option<ScalarValue>,
}

impl Lookup {
    /// The best lookup that the conjuncts allow; none if they name the first column of no order.
    pub(crate) fn of(version: &Version, filters: &[Expr]) -> Option<Lookup> {
        let mut wanted: BTreeMap<usize, Wanted> = BTreeMap::new();
        for filter in filters {
            note(version, filter, &mut wanted);
        }
        let orders = version.orders().enumerate();
        let all = orders.filter_map(|(place, order)| Lookup::in_order(place, order, &wanted));
        // More columns first; among as many, the version's own order.
        all.min_by_key(|(columns, lookup)| (std::cmp::Reverse(*columns), lookup.order)).map(|(_, lookup)| lookup)
    }

    fn in_order(place: usize, order: &Version, wanted: &BTreeMap<usize, Wanted>) -> Option<(usize, Lookup)> {
        let columns = order.layout().order();
        let values = |column: &usize| wanted.get(column)?.values.as_ref();
        let mut count = 1usize;
        let known: Vec<&Vec<ScalarValue>> = columns
            .iter()
            .map_while(values)
            .take_while(|values| {
                count = count.saturating_mul(values.len());
                count <= RANGES_MAX
            })
            .collect();
        let next = columns.get(known.len()).and_then(|column| wanted.get(column));
        let next = next.filter(|next| next.at_least.is_some() || next.at_most.is_some());
        if known.is_empty() && next.is_none() {
            return None;
        }
        let mut ranges: Vec<Range> =
            product(&known).into_iter().map(|prefix| range(order, &prefix, next)).collect::<Option<_>>()?;
        ranges.retain(|range| range.before.as_ref().is_none_or(|before| range.from < *before));
        ranges.sort_by(|a, b| a.from.cmp(&b.from));
        ranges.dedup();
        let named = known.len() + usize::from(next.is_some());
        let columns = columns[..named].to_vec();
        Some((2 * known.len() + usize::from(next.is_some()), Lookup { order: place, columns, ranges }))
    }
}

/// Each combination of one value per column.
fn product<'v>(columns: &[&'v Vec<ScalarValue>]) -> Vec<Vec<&'v ScalarValue>> {
    let mut all = vec![Vec::new()];
    for values in columns {
        all = all
            .into_iter()
            .flat_map(|prefix: Vec<&ScalarValue>| {
                values.iter().map(move |value| prefix.iter().copied().chain([value]).collect())
            })
            .collect();
    }
    all
}

fn range(order: &Version, prefix: &[&ScalarValue], next: Option<&Wanted>) -> Option<Range> {
    let bytes = |last: Option<&ScalarValue>| -> Option<Vec<u8>> {
        let values: Option<Vec<ArrayRef>> =
            prefix.iter().copied().chain(last).map(|value| value.to_array().ok()).collect();
        let values = values?;
        Some(order.layout().prefix_of(&values, 1).get(0).to_vec())
    };
    let (at_least, at_most) = next.map_or((None, None), |next| (next.at_least.as_ref(), next.at_most.as_ref()));
    let from = bytes(at_least)?;
    let before = successor(&bytes(at_most)?);
    Some(Range { from, before })
}

/// Adds what a conjunct says about a column, if it is of a form that is understood.
fn note(version: &Version, filter: &Expr, wanted: &mut BTreeMap<usize, Wanted>) {
    if let Expr::BinaryExpr(both) = filter
        && both.op == Operator::And
    {
        note(version, &both.left, wanted);
        note(version, &both.right, wanted);
        return;
    }
    if let Some((column, values)) = one_of(version, filter) {
        let known = &mut wanted.entry(column).or_default().values;
        match known {
            // Both must hold; the smaller set is enough.
            Some(fewer) if fewer.len() <= values.len() => {}
            _ => *known = Some(values),
        }
        return;
    }
    if let Expr::Between(between) = filter
        && !between.negated
    {
        for (op, bound) in [(Operator::GtEq, &between.low), (Operator::LtEq, &between.high)] {
            note_bound(version, &between.expr, op, bound, wanted);
        }
    }
    if let Expr::BinaryExpr(both) = filter {
        match both.op.swap() {
            Some(swapped) if matches!(both.left.as_ref(), Expr::Literal(..)) => {
                note_bound(version, &both.right, swapped, &both.left, wanted);
            }
            _ => note_bound(version, &both.left, both.op, &both.right, wanted),
        }
    }
}

fn note_bound(version: &Version, column: &Expr, op: Operator, bound: &Expr, wanted: &mut BTreeMap<usize, Wanted>) {
    let Some((column, value)) =
        column_of(version, column).and_then(|column| Some((column, constant(version, column, bound)?)))
    else {
        return;
    };
    let known = wanted.entry(column).or_default();
    // Any of several bounds is right; conditions are asked again.
    match op {
        Operator::Gt | Operator::GtEq => known.at_least = Some(value),
        Operator::Lt | Operator::LtEq => known.at_most = Some(value),
        _ => {}
    }
}

/// The column and the values of which it must have one.
fn one_of(version: &Version, filter: &Expr) -> Option<(usize, Vec<ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(both) if both.op == Operator::Eq => {
            let (column, value) = match (column_of(version, &both.left), column_of(version, &both.right)) {
                (Some(column), None) => (column, &both.right),
                (None, Some(column)) => (column, &both.left),
                _ => return None,
            };
            Some((column, vec![constant(version, column, value)?]))
        }
        Expr::BinaryExpr(both) if both.op == Operator::Or => {
            let (column, mut values) = one_of(version, &both.left)?;
            let (other, more) = one_of(version, &both.right)?;
            values.extend(more);
            (column == other).then_some((column, values))
        }
        Expr::InList(list) if !list.negated => {
            let column = column_of(version, &list.expr)?;
            // A null among them equals nothing.
            let values = list.list.iter().filter(|value| !matches!(value, Expr::Literal(value, _) if value.is_null()));
            Some((column, values.map(|value| constant(version, column, value)).collect::<Option<_>>()?))
        }
        Expr::IsNull(column) => {
            let column = column_of(version, column)?;
            let null = ScalarValue::try_from(version.schema().field(column).data_type()).ok()?;
            Some((column, vec![null]))
        }
        _ => None,
    }
}

fn column_of(version: &Version, expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Column(column) => version.schema().index_of(&column.name).ok(),
        _ => None,
    }
}

/// A constant of exactly the column's type that is not null.
fn constant(version: &Version, column: usize, expr: &Expr) -> Option<ScalarValue> {
    let Expr::Literal(value, _) = expr else { return None };
    let data_type = version.schema().field(column).data_type();
    (!value.is_null() && value.data_type() == *data_type).then(|| value.clone())
}
