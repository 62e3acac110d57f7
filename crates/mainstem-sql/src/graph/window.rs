//! Functions OVER windows of rows.

use std::sync::Arc;

use datafusion::logical_expr::{WindowFrame as PlannedFrame, WindowFrameBound, WindowFrameUnits};
use serde::{Deserialize, Serialize};

use super::{Literal, LiteralValue, Scalar};
use crate::error::SqlError;

/// One function of an [`Operator::Over`](super::Operator::Over).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowFunction {
    /// DataFusion's name of a window function (`row_number`, `lag`, ...) or of an aggregate (`sum`, ...).
    pub name: String,
    /// Over the input; what must be a constant is one.
    pub arguments: Vec<Scalar>,
    /// Of distinct argument values only.
    pub distinct: bool,
    /// Pass over nulls.
    pub ignore_nulls: bool,
    /// Only rows for which this is true.
    pub filter: Option<Scalar>,
    /// Which rows around its own.
    pub frame: Frame,
    /// Arrow's text of the result's type.
    pub result: String,
}

impl WindowFunction {
    /// Whether a change touches only the rows around it, or those behind it whose value goes on from the one before: the function
    /// need not be computed over the whole partition. `keys` is how many the order has.
    #[must_use]
    pub fn is_piecewise(&self, keys: usize) -> bool {
        let is_constant = |scalar: &Scalar| matches!(scalar, Scalar::Literal(of) if of.value != LiteralValue::Null);
        let Frame { units, start, end } = &self.frame;
        let is_bounded = |bound: &FrameBound| match bound {
            FrameBound::CurrentRow => true,
            FrameBound::Preceding(of) | FrameBound::Following(of) => of.value != LiteralValue::Null,
        };
        if self.ignore_nulls || self.distinct {
            return false;
        }
        match self.name.as_str() {
            "row_number" | "rank" => true,
            "lag" | "lead" => self.arguments.get(1).is_none_or(is_constant),
            "dense_rank" | "percent_rank" | "cume_dist" | "ntile" => false,
            // From the beginning up to the row. Sums of floats do not follow from the sum before.
            name if !is_bounded(start) && *end == FrameBound::CurrentRow => match name {
                "count" | "first_value" | "last_value" => true,
                "sum" | "min" | "max" => !self.result.contains("Float"),
                _ => false,
            },
            _ if !is_bounded(start) || !is_bounded(end) => false,
            _ if *units == FrameUnits::Rows => true,
            _ if *start == FrameBound::CurrentRow && *end == FrameBound::CurrentRow => true,
            _ => {
                let is_around = !matches!(start, FrameBound::Following(_)) && !matches!(end, FrameBound::Preceding(_));
                *units == FrameUnits::Range && keys == 1 && is_around
            }
        }
    }
}

/// `ROWS | RANGE | GROUPS BETWEEN start AND end`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// What distances count.
    pub units: FrameUnits,
    /// The first row.
    pub start: FrameBound,
    /// The last row.
    pub end: FrameBound,
}

/// What the distances of a frame count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameUnits {
    /// Rows.
    Rows,
    /// Values of the one key of the order.
    Range,
    /// Rows that are equal by the order.
    Groups,
}

/// An end of a frame. A null distance stands for none: the end of the partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameBound {
    /// This far before.
    Preceding(Literal),
    /// `CURRENT ROW`
    CurrentRow,
    /// This far behind.
    Following(Literal),
}

impl Frame {
    /// From a planned frame.
    pub fn from_planned(frame: &PlannedFrame) -> Result<Frame, SqlError> {
        let units = match frame.units {
            WindowFrameUnits::Rows => FrameUnits::Rows,
            WindowFrameUnits::Range => FrameUnits::Range,
            WindowFrameUnits::Groups => FrameUnits::Groups,
        };
        let bound = |bound: &WindowFrameBound| {
            Ok::<_, SqlError>(match bound {
                WindowFrameBound::Preceding(distance) => FrameBound::Preceding(Literal::from_value(distance)?),
                WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
                WindowFrameBound::Following(distance) => FrameBound::Following(Literal::from_value(distance)?),
            })
        };
        Ok(Frame { units, start: bound(&frame.start_bound)?, end: bound(&frame.end_bound)? })
    }

    /// As DataFusion has it.
    pub fn to_planned(&self) -> Result<Arc<PlannedFrame>, SqlError> {
        let units = match self.units {
            FrameUnits::Rows => WindowFrameUnits::Rows,
            FrameUnits::Range => WindowFrameUnits::Range,
            FrameUnits::Groups => WindowFrameUnits::Groups,
        };
        let bound = |bound: &FrameBound| {
            Ok::<_, SqlError>(match bound {
                FrameBound::Preceding(distance) => WindowFrameBound::Preceding(distance.to_value()?),
                FrameBound::CurrentRow => WindowFrameBound::CurrentRow,
                FrameBound::Following(distance) => WindowFrameBound::Following(distance.to_value()?),
            })
        };
        Ok(Arc::new(PlannedFrame::new_bounds(units, bound(&self.start)?, bound(&self.end)?)))
    }

    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        let distance = |of: &Literal| match of.value {
            LiteralValue::Null => "UNBOUNDED".to_owned(),
            _ => Scalar::Literal(of.clone()).describe(&|_| String::new()),
        };
        let bound = |bound: &FrameBound| match bound {
            FrameBound::Preceding(of) => format!("{} PRECEDING", distance(of)),
            FrameBound::CurrentRow => "CURRENT ROW".to_owned(),
            FrameBound::Following(of) => format!("{} FOLLOWING", distance(of)),
        };
        let units = match self.units {
            FrameUnits::Rows => "ROWS",
            FrameUnits::Range => "RANGE",
            FrameUnits::Groups => "GROUPS",
        };
        format!("{units} {} TO {}", bound(&self.start), bound(&self.end))
    }
}
