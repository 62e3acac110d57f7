//! Functions OVER a window of event time under EMIT ON WINDOW CLOSE: rows are given when the watermark has passed them.
//!
//! A row is held until the watermark is above its event time: no row with the same or an earlier time comes any more, so that a
//! function that looks back only (`RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW`, lag, rank) has its value for good.
//! What looks ahead would change rows that were given, and is refused.

use super::convert::Convert;
use super::window_close::{Lineage, window_end_of};
use crate::error::SqlError;
use crate::graph::{FrameBound, Operator, OperatorId, Scalar, SortKey, WindowFunction};

impl Convert {
    /// The rows that the watermark has passed; all of them where none of a watermarked source come through.
    pub(super) fn passed_rows<'f>(
        &mut self,
        mut functions: impl Iterator<Item = (&'f [SortKey], &'f WindowFunction)>,
        input: OperatorId,
    ) -> Result<OperatorId, SqlError> {
        if !self.emit.on_window_close || !self.is_open[input.0 as usize] {
            return Ok(input);
        }
        if self.emit.early_us.is_some() {
            return Err(SqlError::not_supported("EARLY EVERY with functions OVER a window is not supported"));
        }
        let mut time = None;
        let all_look_back = functions.all(|(order, function)| {
            let found = self.event_time(order, input);
            time = time.or(found);
            found.is_some() && looks_back(function)
        });
        let Some(time) = time.filter(|_| all_look_back) else {
            let message = "EMIT ON WINDOW CLOSE with functions OVER a window that may look ahead is not supported";
            return Err(SqlError::not_supported(message).with_hint(
                "Order by the watermark column, ascending, and end the frame with CURRENT ROW: OVER (PARTITION BY k ORDER BY \
                 ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW).",
            ));
        };
        let mut schema = self.nodes[input.0 as usize].schema.clone();
        let width = schema.len();
        let mut expressions: Vec<Scalar> = (0..width).map(Scalar::Column).collect();
        // The first moment at which the watermark is above the time.
        expressions.push(window_end_of(&Scalar::Column(time), 1, &schema[time].data_type)?);
        schema.push(schema[time].clone());
        "passed_at".clone_into(&mut schema[width].name);
        let fields = schema[..width].to_vec();
        let timed = self.project_scalars(expressions, schema, input)?;
        let passed = self.same(Operator::EmitOnClose { window_end: width, early_us: None }, timed);
        // A window above them is not complete before it is closed.
        self.is_open[passed.0 as usize] = true;
        self.nodes[passed.0 as usize].append_only = !self.allows_lateness;
        self.project_scalars((0..width).map(Scalar::Column).collect(), fields, passed)
    }

    /// Whether a window's bound is among the expressions.
    pub(super) fn has_window(&self, partition: &[Scalar], input: OperatorId) -> bool {
        let is_bound = |scalar: &Scalar| matches!(self.scalar_lineage(scalar, input), Lineage::Start(_) | Lineage::End);
        partition.iter().any(is_bound)
    }

    /// The watermark's column, if the order begins with it.
    fn event_time(&self, order: &[SortKey], input: OperatorId) -> Option<usize> {
        let first = order.first().filter(|key| !key.descending)?;
        match first.expression {
            Scalar::Column(column) if self.lineage[input.0 as usize][column] == Lineage::Time => Some(column),
            _ => None,
        }
    }
}

fn looks_back(function: &WindowFunction) -> bool {
    match function.name.as_str() {
        "row_number" | "rank" | "dense_rank" | "lag" => true,
        "lead" | "ntile" | "percent_rank" | "cume_dist" => false,
        _ => !matches!(function.frame.end, FrameBound::Following(_)),
    }
}
