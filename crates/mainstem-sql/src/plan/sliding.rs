//! Functions OVER a window of event time under EMIT ON WINDOW CLOSE: rows are given when the watermark has passed them.
//!
//! A row is held until the watermark is above its event time: no row with the same or an earlier time comes any more, so that a
//! function that looks back only (`RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW`, lag, rank) has its value for good.
//! What looks ahead would change rows that were given, and is refused.

use super::convert::Convert;
use super::window_close::{Bound, Lineage};
use crate::error::SqlError;
use crate::graph::{FrameBound, OperatorId, Scalar, SortKey, WindowFunction};

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
        let after_us = self.lineage[input.0 as usize][time].after_us().unwrap_or(0);
        let passed = self.close(input, time, after_us);
        // A window above them is not complete before it is closed.
        self.is_open[passed.0 as usize] = true;
        Ok(passed)
    }

    /// Whether a window's bound is among the expressions.
    pub(super) fn has_window(&self, partition: &[Scalar], input: OperatorId) -> bool {
        partition.iter().any(|scalar| {
            let lineage = self.scalar_lineage(scalar, input);
            matches!(lineage, Lineage::Settles { is: Bound::Start(_) | Bound::End(_), .. })
        })
    }

    /// The watermark's column, if the order begins with it.
    fn event_time(&self, order: &[SortKey], input: OperatorId) -> Option<usize> {
        let first = order.first().filter(|key| !key.descending)?;
        match first.expression {
            Scalar::Column(column) => match self.lineage[input.0 as usize][column] {
                Lineage::Settles { is: Bound::Time, .. } => Some(column),
                _ => None,
            },
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
