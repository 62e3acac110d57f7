//! EMIT ON WINDOW CLOSE: late rows are taken out at the source, and groups held until their window has closed.
//!
//! Which columns are event times, or bounds of windows over them, is followed from the sources up ([`Lineage`]). With each
//! stands when its rows are *settled*: once the watermark is greater than the column's value and `after`, no row with that value
//! comes any more, nor is one taken back. For a source `after` is 0, behind a join of two streams it is how long a partner may
//! still come (`time_bounds`). The first aggregate above a source that groups by a window's bound gives its groups when they are
//! settled; so is a join of streams at the top of the query, whose rows are given when both of theirs are. All state that belongs
//! to a settled value is forgotten ([`Forget`]).

use datafusion::logical_expr::LogicalPlan;
use mainstem_catalog::{Relation, RelationKind, Watermark};

use super::convert::Convert;
use super::joins::internal_field;
use super::time_bounds::in_terms_of;
use crate::error::{SqlError, sqlstate};
use crate::functions::{CUMULATE_ENDS, HOP_STARTS, TUMBLE_START, WINDOW_END};
use crate::graph::{Aggregate, Forget, GraphField, Literal, LiteralValue, Operator, OperatorId, Scalar};

/// When a view shows its windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emit {
    /// `EMIT ON WINDOW CLOSE`
    pub on_window_close: bool,
    /// `WITH EARLY EVERY`
    pub early_us: Option<i64>,
}

impl From<bool> for Emit {
    fn from(on_window_close: bool) -> Emit {
        Emit { on_window_close, early_us: None }
    }
}

/// What a column has to do with event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lineage {
    /// Nothing that is known.
    Other,
    /// Rows are settled when the watermark is greater than the value and `after_us`.
    Settles { is: Bound, after_us: i64 },
}

/// What a value is. Lengths of windows are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// An event time.
    Time,
    /// A list of starts of windows of this length.
    Starts(i64),
    /// A list of ends of windows of at most this length.
    Ends(i64),
    /// The start of a window of this length.
    Start(i64),
    /// The end of a window of at most this length.
    End(i64),
}

impl Bound {
    /// Whether it is no list.
    pub(super) fn is_value(self) -> bool {
        !matches!(self, Bound::Starts(_) | Bound::Ends(_))
    }
}

impl Lineage {
    /// Of a list's items.
    pub(super) fn item(self) -> Lineage {
        match self {
            Lineage::Settles { is: Bound::Starts(size), after_us } => {
                Lineage::Settles { is: Bound::Start(size), after_us }
            }
            Lineage::Settles { is: Bound::Ends(size), after_us } => Lineage::Settles { is: Bound::End(size), after_us },
            _ => Lineage::Other,
        }
    }

    /// Of a column of rows of either kind.
    pub(super) fn of_both(self, other: Lineage) -> Lineage {
        match (self, other) {
            (Lineage::Settles { is, after_us }, Lineage::Settles { is: of_other, after_us: later_us })
                if is == of_other =>
            {
                Lineage::Settles { is, after_us: after_us.max(later_us) }
            }
            _ => Lineage::Other,
        }
    }

    pub(super) fn after_us(self) -> Option<i64> {
        match self {
            Lineage::Settles { is, after_us } if is.is_value() => Some(after_us),
            _ => None,
        }
    }
}

impl Convert {
    pub(super) fn input_lineage(&self, relation: &Relation, columns: &[usize]) -> Vec<Lineage> {
        let time = watermark(relation).map(|watermark| watermark.column);
        let is_time = |column: &usize| self.emit.on_window_close && Some(*column) == time;
        let lineage = |column| match is_time(column) {
            true => Lineage::Settles { is: Bound::Time, after_us: 0 },
            false => Lineage::Other,
        };
        columns.iter().map(lineage).collect()
    }

    pub(super) fn scalar_lineage(&self, scalar: &Scalar, input: OperatorId) -> Lineage {
        match scalar {
            Scalar::Column(column) => self.lineage[input.0 as usize][*column],
            Scalar::Function { name, arguments, .. } => {
                let of = arguments.first().map_or(Lineage::Other, |first| self.scalar_lineage(first, input));
                let Lineage::Settles { is, after_us } = of else { return Lineage::Other };
                let of_windows = |size: i64, list: fn(i64) -> Bound| {
                    // The last time of a window is one microsecond before its end.
                    Lineage::Settles { is: list(size), after_us: after_us + size - 1 }
                };
                match (name.as_str(), is, arguments.as_slice()) {
                    (TUMBLE_START, Bound::Time, [_, size, _]) => {
                        constant(size).map_or(Lineage::Other, |size| of_windows(size, Bound::Start))
                    }
                    (HOP_STARTS, Bound::Time, [_, _, size, _]) => {
                        constant(size).map_or(Lineage::Other, |size| of_windows(size, Bound::Starts))
                    }
                    (CUMULATE_ENDS, Bound::Time, [_, _, size, _]) => constant(size).map_or(Lineage::Other, |size| {
                        Lineage::Settles { is: Bound::Ends(size), after_us: after_us - 1 }
                    }),
                    (WINDOW_END, Bound::Start(size), [_, end]) if constant(end) == Some(size) => {
                        Lineage::Settles { is: Bound::End(size), after_us: after_us - size }
                    }
                    _ => Lineage::Other,
                }
            }
            _ => Lineage::Other,
        }
    }

    /// Takes late rows out, directly above the input.
    pub(super) fn drop_late(&mut self, relation: &Relation, input: OperatorId) -> Result<OperatorId, SqlError> {
        if self.emit.early_us.is_some() && !matches!(relation.kind, RelationKind::Source(_)) {
            let (kind, name) = (relation.kind.noun(), &relation.name);
            return Err(SqlError::not_supported(format!("EARLY EVERY over {kind} \"{name}\" is not supported"))
                .with_hint(
                    "Early results show what sources held at a tick. Leave EARLY EVERY out, or read sources only.",
                ));
        }
        if !self.emit.on_window_close || watermark(relation).is_none() {
            return Ok(input);
        }
        if matches!(relation.kind, RelationKind::Table(_)) {
            let message = format!("EMIT ON WINDOW CLOSE over table \"{}\" is not supported", relation.name);
            return Err(SqlError::not_supported(message)
                .with_hint("Rows of a table can change after their window has closed. Use a source."));
        }
        self.allows_lateness |= watermark(relation).is_some_and(|watermark| watermark.lateness_us > 0);
        let id = self.same(Operator::DropLate {}, input);
        self.is_open[id.0 as usize] = true;
        Ok(id)
    }

    /// An aggregate by a window, with EmitOnClose above it; none if no group column is a window's bound.
    pub(super) fn closing_aggregate(
        &mut self,
        group: &[Scalar],
        aggregates: &[Aggregate],
        schema: &[GraphField],
        input: OperatorId,
    ) -> Result<Option<OperatorId>, SqlError> {
        let bounds: Vec<Lineage> = group.iter().map(|scalar| self.scalar_lineage(scalar, input)).collect();
        let is = |wanted: fn(Bound) -> bool| {
            bounds.iter().position(|bound| matches!(bound, Lineage::Settles { is, .. } if wanted(*is)))
        };
        let end = is(|bound| matches!(bound, Bound::End(_)));
        let start = is(|bound| matches!(bound, Bound::Start(_)));
        let (mut group, mut schema, mut lineage) = (group.to_vec(), schema.to_vec(), bounds.clone());
        let width = schema.len();
        let (window_end, is_added) = match (end, start) {
            (Some(end), _) => (end, false),
            (None, Some(start)) => {
                let Lineage::Settles { is: Bound::Start(size), after_us } = bounds[start] else { return Ok(None) };
                let at = group.len();
                group.push(window_end_of(&group[start], size, &schema[start].data_type)?);
                schema.insert(at, GraphField { name: "window_end".to_owned(), ..schema[start].clone() });
                lineage.push(Lineage::Settles { is: Bound::End(size), after_us: after_us - size });
                (at, true)
            }
            (None, None) => return Ok(None),
        };
        let after_us = lineage[window_end].after_us().unwrap_or(-1);
        lineage.resize(schema.len(), Lineage::Other);
        let fields = schema.clone();
        let operator = Operator::Aggregate { group, aggregates: aggregates.to_vec() };
        let aggregate = self.push(operator, vec![input], schema, false, lineage);
        self.forget(aggregate, Forget { input: 0, column: window_end, after_us });
        self.forget_below(input, &self.group_column(aggregate, window_end), after_us);
        let closed = self.close(aggregate, window_end, after_us);
        if !is_added {
            return Ok(Some(closed));
        }
        let columns: Vec<usize> = (0..=width).filter(|column| *column != window_end).collect();
        let schema = columns.iter().map(|column| fields[*column].clone()).collect();
        let columns = columns.into_iter().map(Scalar::Column).collect();
        self.project_scalars(columns, schema, closed).map(Some)
    }

    /// Holds rows until the value in the column is settled.
    pub(super) fn close(&mut self, input: OperatorId, window_end: usize, after_us: i64) -> OperatorId {
        let closed = self.same(Operator::EmitOnClose { window_end, after_us, early_us: self.emit.early_us }, input);
        // Rows come when this column is settled; the others are not before.
        if let Lineage::Settles { is: by, .. } = self.lineage[input.0 as usize][window_end] {
            for (place, lineage) in self.lineage[closed.0 as usize].iter_mut().enumerate() {
                if let Lineage::Settles { is, after_us: own_us } = lineage
                    && place != window_end
                {
                    *own_us = in_terms_of(*is, by, after_us).max(*own_us);
                }
            }
        }
        self.is_open[closed.0 as usize] = false;
        // Within the lateness allowed a row revises what was given, and a window that is shown early will change.
        self.nodes[closed.0 as usize].append_only = !self.allows_lateness && self.emit.early_us.is_none();
        closed
    }

    /// Lets an operator forget what belongs to a value that is settled.
    pub(super) fn forget(&mut self, operator: OperatorId, forget: Forget) {
        if self.emit.on_window_close {
            self.nodes[operator.0 as usize].forgets.push(forget);
        }
    }

    fn group_column(&self, aggregate: OperatorId, index: usize) -> Scalar {
        match &self.nodes[aggregate.0 as usize].operator {
            Operator::Aggregate { group, .. } => group[index].clone(),
            _ => Scalar::Column(index),
        }
    }

    /// What only feeds groups that are given and forgotten once `scalar` is settled can be forgotten as well: rows of a stream in
    /// a join with a table. What the table changes later would be late.
    fn forget_below(&mut self, mut at: OperatorId, scalar: &Scalar, after_us: i64) {
        let (mut scalar, mut after_us) = (scalar.clone(), after_us);
        while let Some((mut column, later_us)) = self.traced(&scalar, at) {
            after_us = after_us.saturating_add(later_us);
            let node = &self.nodes[at.0 as usize];
            let inputs = node.inputs.clone();
            match &node.operator {
                Operator::Project { expressions } => scalar = expressions[column].clone(),
                Operator::Filter { .. } | Operator::Unnest { .. } => scalar = Scalar::Column(column),
                Operator::Join { .. } => {
                    let left = self.nodes[inputs[0].0 as usize].schema.len();
                    let side = usize::from(column >= left);
                    column -= if side == 1 { left } else { 0 };
                    let is_known = node.forgets.iter().any(|forget| forget.input == side);
                    if !is_known && self.lineage[inputs[side].0 as usize][column].after_us().is_some() {
                        self.forget(at, Forget { input: side, column, after_us });
                    }
                    scalar = Scalar::Column(column);
                    at = inputs[side];
                    continue;
                }
                _ => return,
            }
            at = inputs[0];
        }
    }

    /// The column of a node that a bound is made of, and how much longer than the bound it is needed.
    fn traced(&self, scalar: &Scalar, node: OperatorId) -> Option<(usize, i64)> {
        match scalar {
            Scalar::Column(column) => Some((*column, 0)),
            Scalar::Function { arguments, .. } => {
                let Lineage::Settles { is, .. } = self.scalar_lineage(scalar, node) else { return None };
                let mut inner = arguments.first()?;
                while let Scalar::Function { arguments, .. } = inner {
                    inner = arguments.first()?;
                }
                let Scalar::Column(column) = inner else { return None };
                let of_inner = self.lineage[node.0 as usize][*column];
                match (is, of_inner) {
                    (
                        Bound::End(size) | Bound::Ends(size),
                        Lineage::Settles { is: Bound::Time | Bound::Start(_), .. },
                    ) => Some((*column, size)),
                    (Bound::Start(_) | Bound::Starts(_), Lineage::Settles { is: Bound::Time, .. }) => {
                        Some((*column, 0))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The join at the top of a query, below nothing but projections and conditions.
    pub(super) fn top_join(plan: &LogicalPlan) -> Option<&LogicalPlan> {
        match plan {
            LogicalPlan::Join(_) | LogicalPlan::Extension(_) => Some(plan),
            LogicalPlan::Projection(projection) => Self::top_join(&projection.input),
            LogicalPlan::Filter(filter) => Self::top_join(&filter.input),
            LogicalPlan::SubqueryAlias(alias) => Self::top_join(&alias.input),
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => Self::top_join(&sort.input),
            _ => None,
        }
    }

    /// A join of streams whose rows are given when those of both sides that they are made of are settled; rows of an ASOF JOIN
    /// when the left one is.
    pub(super) fn closing_join(&mut self, plan: &LogicalPlan, join: OperatorId) -> Result<OperatorId, SqlError> {
        let Some(left) = plan.inputs().first().map(|input| input.schema().fields().len()) else { return Ok(join) };
        let node = &self.nodes[join.0 as usize];
        let width = node.schema.len();
        // A right join is a left join below a projection.
        let of_join = if matches!(node.operator, Operator::Project { .. }) {
            self.nodes[node.inputs[0].0 as usize].clone()
        } else {
            node.clone()
        };
        let sides = match of_join.operator {
            Operator::Join { .. } if left < width => vec![0..left, left..width],
            Operator::AsOf { .. } => vec![0..left],
            _ => return Ok(join),
        };
        if of_join.forgets.len() < sides.len() {
            return Ok(join);
        }
        if self.emit.early_us.is_some() {
            return Err(SqlError::not_supported("EARLY EVERY over rows of a join is not supported")
                .with_hint("Group by a window, or leave EARLY EVERY out."));
        }
        let mut ends: Vec<(Scalar, String)> = Vec::new();
        for mut columns in sides {
            let lineage = &self.lineage[join.0 as usize];
            let settles = columns.find_map(|column| Some((column, lineage[column].after_us()?)));
            let Some((column, after_us)) = settles else { return Ok(join) };
            let data_type = node.schema[column].data_type.clone();
            ends.push((window_end_of(&Scalar::Column(column), after_us.saturating_add(1), &data_type)?, data_type));
        }
        let Some((_, data_type)) = ends.first().cloned() else { return Ok(join) };
        if ends.iter().any(|(_, other)| *other != data_type) {
            return Ok(join);
        }
        let mut ends: Vec<Scalar> = ends.into_iter().map(|(end, _)| end).collect();
        // Of an outer row one is null, and does not count.
        let end = match (ends.pop(), ends.is_empty()) {
            (Some(only), true) => only,
            (Some(last), false) => {
                ends.push(last);
                Scalar::Function { name: "greatest".to_owned(), arguments: ends, result: data_type.clone() }
            }
            (None, _) => return Ok(join),
        };
        let mut schema = self.nodes[join.0 as usize].schema.clone();
        let fields = schema.clone();
        schema.push(internal_field("settled", &data_type));
        let expressions = (0..width).map(Scalar::Column).chain([end]).collect();
        let with_end = self.project_scalars(expressions, schema, join)?;
        let closed = self.close(with_end, width, -1);
        self.project_scalars((0..width).map(Scalar::Column).collect(), fields, closed)
    }

    /// Whether rows of a watermarked source come here without having been held.
    fn shows_open_rows(&self, at: OperatorId) -> bool {
        let node = &self.nodes[at.0 as usize];
        match node.operator {
            Operator::EmitOnClose { .. } => false,
            Operator::DropLate {} => true,
            _ => node.inputs.iter().any(|input| self.shows_open_rows(*input)),
        }
    }

    /// Every row of a watermarked source must come through a window that closes.
    pub(super) fn check_closed(&self, output: OperatorId) -> Result<(), SqlError> {
        let closes = self.nodes.iter().any(|node| matches!(node.operator, Operator::EmitOnClose { .. }));
        if !self.emit.on_window_close || (closes && !self.shows_open_rows(output)) {
            return Ok(());
        }
        if self.has_unbounded_join {
            let message =
                "EMIT ON WINDOW CLOSE over a join of two streams needs a condition that bounds the times of both sides";
            return Err(SqlError::new(sqlstate::INVALID_DEFINITION, message).with_hint(
                "Write ON a.window_end = b.window_end, or ON a.ts BETWEEN b.ts - INTERVAL '...' AND b.ts + INTERVAL '...'.",
            ));
        }
        let message = "EMIT ON WINDOW CLOSE needs a GROUP BY of window_end (or window_start) of tumble(), hop() or cumulate() over the \
                       watermark column of a source";
        Err(SqlError::new(sqlstate::INVALID_DEFINITION, message).with_hint(
            "Declare WATERMARK FOR ts AS ts - INTERVAL '...' on the source, and use tumble(source, ts, ...).",
        ))
    }
}

fn watermark(relation: &Relation) -> Option<&Watermark> {
    match &relation.kind {
        RelationKind::Source(source) => source.watermark.as_ref(),
        RelationKind::Table(table) => table.watermark.as_ref(),
        RelationKind::View(_) | RelationKind::MaterializedView(_) => None,
    }
}

fn constant(scalar: &Scalar) -> Option<i64> {
    match scalar {
        Scalar::Literal(Literal { data_type, value: LiteralValue::Text(text) }) if data_type == "Int64" => {
            text.parse().ok()
        }
        _ => None,
    }
}

pub(super) fn window_end_of(start: &Scalar, size: i64, data_type: &str) -> Result<Scalar, SqlError> {
    let size = Literal::from_value(&datafusion::common::ScalarValue::Int64(Some(size)))?;
    Ok(Scalar::Function {
        name: WINDOW_END.to_owned(),
        arguments: vec![start.clone(), Scalar::Literal(size)],
        result: data_type.to_owned(),
    })
}
