//! Functions behind `tumble()`, `hop()` and `cumulate()`: windows of a fixed length on the line of event time.
//!
//! Windows start at `offset + k * slide` for all integers k and hold `start <= ts < start + size`. All lengths are
//! microseconds, constant and positive; timestamps are microseconds with or without time zone.

use std::sync::Arc;

use crate::error::{SqlError, sqlstate};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `tumble_start(ts, size, offset)`: start of the one window that holds ts.
pub const TUMBLE_START: &str = "tumble_start";
/// `hop_starts(ts, slide, size, offset)`: starts of all windows that hold ts, in ascending order; null for null.
pub const HOP_STARTS: &str = "hop_starts";
/// `cumulate_ends(ts, step, size, offset)`: ends of all windows that hold ts and start where the one of the whole size does,
/// in ascending order; null for null.
pub const CUMULATE_ENDS: &str = "cumulate_ends";
/// `window_end(start, size)`: the end of the window.
pub const WINDOW_END: &str = "window_end";
/// More windows than this per row are refused.
pub const WINDOWS_PER_ROW_MAX: i64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    TumbleStart,
    HopStarts,
    CumulateEnds,
    WindowEnd,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    kind: Kind,
    signature: Signature,
}

pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    [(Kind::TumbleStart, 3), (Kind::HopStarts, 4), (Kind::CumulateEnds, 4), (Kind::WindowEnd, 2)]
        .into_iter()
        .map(|(kind, arguments)| {
            let signature = Signature::any(arguments, Volatility::Immutable);
            Arc::new(ScalarUDF::new_from_impl(WindowFunction { kind, signature }))
        })
        .collect()
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::TumbleStart => TUMBLE_START,
            Kind::HopStarts => HOP_STARTS,
            Kind::CumulateEnds => CUMULATE_ENDS,
            Kind::WindowEnd => WINDOW_END,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let Some(time @ DataType::Timestamp(TimeUnit::Microsecond, _)) = types.first() else {
            let error = SqlError::new(
                sqlstate::TYPE_MISMATCH,
                "the time column of a window must be a timestamp or timestamptz",
            );
            return Err(error.into());
        };
        Ok(match self.kind {
            Kind::HopStarts | Kind::CumulateEnds => DataType::List(Arc::new(Field::new_list_field(time.clone(), true))),
            Kind::TumbleStart | Kind::WindowEnd => time.clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lengths = args.args[1..].iter().map(|arg| self.length(arg)).collect::<Result<Vec<_>>>()?;
        let times = args.args[0].to_array(args.number_rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let result: ArrayRef = match (self.kind, lengths.as_slice()) {
            (Kind::TumbleStart, [size, offset]) => Arc::new(self.map(times, |time| last_start(time, *size, *offset))?),
            (Kind::WindowEnd, [size]) => Arc::new(self.map(times, |start| start.checked_add(*size))?),
            (Kind::HopStarts, [slide, size, offset]) => {
                Arc::new(lists(times, &|time, values| hop_starts(time, *slide, *size, *offset, values))?)
            }
            (Kind::CumulateEnds, [step, size, offset]) => {
                Arc::new(lists(times, &|time, values| cumulate_ends(time, *step, *size, *offset, values))?)
            }
            _ => return plan_err!("wrong number of arguments of {}()", self.name()),
        };
        if matches!(args.args[0], ColumnarValue::Scalar(_)) {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

impl WindowFunction {
    fn length(&self, arg: &ColumnarValue) -> Result<i64> {
        match arg {
            ColumnarValue::Scalar(ScalarValue::Int64(Some(length))) => Ok(*length),
            _ => exec_err!("{}() needs constant lengths", self.name()),
        }
    }

    fn map(
        &self,
        times: &PrimitiveArray<TimestampMicrosecondType>,
        of: impl Fn(i64) -> Option<i64>,
    ) -> Result<PrimitiveArray<TimestampMicrosecondType>> {
        let mapped = times.try_unary::<_, TimestampMicrosecondType, _>(|time| {
            of(time).ok_or_else(|| arrow::error::ArrowError::ComputeError("timestamp out of range".into()))
        })?;
        Ok(mapped.with_data_type(times.data_type().clone()))
    }
}

/// A list for each time, of what `add` adds; it answers None when a bound is out of the range of timestamps.
fn lists(
    times: &PrimitiveArray<TimestampMicrosecondType>,
    add: &dyn Fn(i64, &mut Vec<i64>) -> Option<()>,
) -> Result<ListArray> {
    let mut values = Vec::with_capacity(times.len());
    let mut lengths = Vec::with_capacity(times.len());
    for time in times {
        let before = values.len();
        if time.is_some_and(|time| add(time, &mut values).is_none()) {
            return exec_err!("timestamp out of range");
        }
        lengths.push(values.len() - before);
    }
    let item = Arc::new(Field::new_list_field(times.data_type().clone(), true));
    let values = PrimitiveArray::<TimestampMicrosecondType>::from_iter_values(values);
    let values = Arc::new(values.with_data_type(times.data_type().clone()));
    let nulls = times.nulls().cloned();
    Ok(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), values, nulls)?)
}

fn hop_starts(time: i64, slide: i64, size: i64, offset: i64, values: &mut Vec<i64>) -> Option<()> {
    let before = values.len();
    // The windows that hold it are the last one that has started and those before it that have not ended.
    let mut start = Some(last_start(time, slide, offset)?);
    while let Some(from) = start.filter(|from| time - from < size) {
        values.push(from);
        start = from.checked_sub(slide);
    }
    values[before..].reverse();
    Some(())
}

fn cumulate_ends(time: i64, step: i64, size: i64, offset: i64, values: &mut Vec<i64>) -> Option<()> {
    let start = last_start(time, size, offset)?;
    let mut end = last_start(time, step, start)?.checked_add(step)?;
    let last = start.checked_add(size)?;
    while end <= last {
        values.push(end);
        end = end.checked_add(step)?;
    }
    Some(())
}

/// The start of the last window that has started at `time`.
fn last_start(time: i64, slide: i64, offset: i64) -> Option<i64> {
    let into = (i128::from(time) - i128::from(offset)).rem_euclid(i128::from(slide.max(1)));
    i64::try_from(i128::from(time) - into).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_its_start_and_not_its_end_before_and_after_the_epoch() {
        for (time, start) in [(0, 0), (9, 0), (10, 10), (-1, -10), (-10, -10), (-11, -20)] {
            assert_eq!(last_start(time, 10, 0), Some(start), "{time}");
        }
        assert_eq!(last_start(12, 10, 3), Some(3));
        assert_eq!(last_start(13, 10, 3), Some(13));
        assert_eq!(last_start(i64::MIN, 10, 0), None, "no start is representable");
    }

    #[test]
    fn every_start_of_a_hop_is_a_window_that_holds_the_time_and_none_is_missing() {
        for (slide, size, offset) in [(2, 6, 0), (5, 7, 1), (7, 5, 0), (1, 3, -1)] {
            let times = PrimitiveArray::<TimestampMicrosecondType>::from_iter((-20..20).map(Some).chain([None]));
            let add = |time: i64, values: &mut Vec<i64>| hop_starts(time, slide, size, offset, values);
            let lists = lists(&times, &add).expect("in range");
            assert!(lists.is_null(40));
            for (row, time) in (-20i64..20).enumerate() {
                let expected: Vec<i64> = (-60..60)
                    .map(|k| offset + k * slide)
                    .filter(|start| *start <= time && time < start + size)
                    .collect();
                let found = lists.value(row);
                assert_eq!(found.as_primitive::<TimestampMicrosecondType>().values(), expected.as_slice(), "{time}");
            }
        }
    }

    #[test]
    fn cumulated_windows_start_together_and_end_step_by_step() {
        for (time, expected) in
            [(0, vec![2, 4, 6]), (1, vec![2, 4, 6]), (2, vec![4, 6]), (5, vec![6]), (6, vec![8, 10, 12])]
        {
            let mut values = Vec::new();
            cumulate_ends(time, 2, 6, 0, &mut values).expect("in range");
            assert_eq!(values, expected, "{time}");
        }
        let mut values = Vec::new();
        cumulate_ends(-1, 2, 6, 1, &mut values).expect("in range");
        assert_eq!(values, [1], "the window of -5..1");
        assert_eq!(cumulate_ends(i64::MAX, 2, 6, 0, &mut Vec::new()), None);
    }
}
