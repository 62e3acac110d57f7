//! Values as PostgreSQL writes and reads them: one text form for results, parameters, COPY and casts.

pub(crate) mod datetime;
mod input;
mod output;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{CastOptions, cast_with_options};
use mainstem_catalog::SqlType;

use crate::arrow_types::arrow_type;
use crate::error::SqlError;

pub use input::{column_from_text, numeric_overflow, unreadable};
pub use output::{write_cell, write_text};

/// Precision and scale of `numeric` without them: such values are shown without trailing zeros.
pub const PLAIN_NUMERIC: (u8, i8) = (38, 10);

/// The array in the one layout of its SQL type.
pub fn canonical(array: &ArrayRef, sql_type: &SqlType) -> Result<ArrayRef, SqlError> {
    let wanted = arrow_type(sql_type);
    if *array.data_type() == wanted {
        return Ok(array.clone());
    }
    if let arrow::datatypes::DataType::Duration(_) = array.data_type() {
        return Ok(durations(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, &wanted, &options).map_err(|error| {
        SqlError::new("0A000", format!("a value of type {} cannot be shown: {error}", array.data_type()))
    })
}

/// Differences of timestamps are intervals in PostgreSQL: days and time.
fn durations(array: &ArrayRef) -> ArrayRef {
    use arrow::array::{AsArray, IntervalMonthDayNanoArray};
    use arrow::datatypes::{DataType, DurationMicrosecondType, IntervalMonthDayNano, TimeUnit};
    const DAY_US: i64 = 86_400_000_000;
    let us = arrow::compute::cast(array, &DataType::Duration(TimeUnit::Microsecond)).expect("durations cast");
    let us = us.as_primitive::<DurationMicrosecondType>();
    let one =
        |us: i64| IntervalMonthDayNano::new(0, i32::try_from(us / DAY_US).unwrap_or(i32::MAX), (us % DAY_US) * 1000);
    Arc::new(us.iter().map(|value| value.map(one)).collect::<IntervalMonthDayNanoArray>())
}
