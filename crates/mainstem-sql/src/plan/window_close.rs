//! EMIT ON WINDOW CLOSE: late rows are taken out at the source, and groups held until their window has closed.
//!
//! Which columns are window bounds of a watermarked time is followed from the sources up ([`Lineage`]). The first aggregate
//! above a source that groups by such a bound gives its groups when the watermark has passed the window's end.

use mainstem_catalog::{Relation, RelationKind, Watermark};

use super::convert::Convert;
use crate::error::{SqlError, sqlstate};
use crate::functions::{CUMULATE_ENDS, HOP_STARTS, TUMBLE_START, WINDOW_END};
use crate::graph::{Aggregate, GraphField, Literal, LiteralValue, Operator, OperatorId, Scalar};

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
    /// The watermark's column of a source.
    Time,
    /// A list of starts of windows of this length, in microseconds.
    Starts(i64),
    /// A list of ends of windows.
    Ends,
    /// The start of a window of this length.
    Start(i64),
    /// The end of a window.
    End,
}

impl Lineage {
    /// Of a list's items.
    pub(super) fn item(self) -> Lineage {
        match self {
            Lineage::Starts(size) => Lineage::Start(size),
            Lineage::Ends => Lineage::End,
            _ => Lineage::Other,
        }
    }
}

impl Convert {
    pub(super) fn input_lineage(&self, relation: &Relation, columns: &[usize]) -> Vec<Lineage> {
        let time = watermark(relation).map(|watermark| watermark.column);
        columns.iter().map(|column| if Some(*column) == time { Lineage::Time } else { Lineage::Other }).collect()
    }

    pub(super) fn scalar_lineage(&self, scalar: &Scalar, input: OperatorId) -> Lineage {
        match scalar {
            Scalar::Column(column) => self.lineage[input.0 as usize][*column],
            Scalar::Function { name, arguments, .. } => {
                let of = arguments.first().map_or(Lineage::Other, |first| self.scalar_lineage(first, input));
                match (name.as_str(), of, arguments.as_slice()) {
                    (TUMBLE_START, Lineage::Time, [_, size, _]) => {
                        constant(size).map_or(Lineage::Other, Lineage::Start)
                    }
                    (HOP_STARTS, Lineage::Time, [_, _, size, _]) => {
                        constant(size).map_or(Lineage::Other, Lineage::Starts)
                    }
                    (CUMULATE_ENDS, Lineage::Time, _) => Lineage::Ends,
                    (WINDOW_END, Lineage::Start(size), [_, end]) if constant(end) == Some(size) => Lineage::End,
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
        let end = bounds.iter().position(|bound| *bound == Lineage::End);
        let start = bounds.iter().position(|bound| matches!(bound, Lineage::Start(_)));
        let (mut group, mut schema) = (group.to_vec(), schema.to_vec());
        let width = schema.len();
        let (window_end, is_added) = match (end, start) {
            (Some(end), _) => (end, false),
            (None, Some(start)) => {
                let Lineage::Start(size) = bounds[start] else { return Ok(None) };
                let at = group.len();
                group.push(window_end_of(&group[start], size, &schema[start].data_type)?);
                schema.insert(at, GraphField { name: "window_end".to_owned(), ..schema[start].clone() });
                (at, true)
            }
            (None, None) => return Ok(None),
        };
        let lineage = vec![Lineage::Other; schema.len()];
        let fields = schema.clone();
        let operator = Operator::Aggregate { group, aggregates: aggregates.to_vec() };
        let aggregate = self.push(operator, vec![input], schema, false, lineage);
        let closed = self.same(Operator::EmitOnClose { window_end, early_us: self.emit.early_us }, aggregate);
        self.is_open[closed.0 as usize] = false;
        // Within the lateness allowed a row revises what was given, and a window that is shown early will change.
        self.nodes[closed.0 as usize].append_only = !self.allows_lateness && self.emit.early_us.is_none();
        if !is_added {
            return Ok(Some(closed));
        }
        let columns: Vec<usize> = (0..=width).filter(|column| *column != window_end).collect();
        let schema = columns.iter().map(|column| fields[*column].clone()).collect();
        let columns = columns.into_iter().map(Scalar::Column).collect();
        self.project_scalars(columns, schema, closed).map(Some)
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
