//! The scalar functions that expressions name: DataFusion's, ours for windows, and ours where PostgreSQL means something else.
//!
//! A stored graph names a function; it is looked up here when the graph is compiled. Functions whose result depends on
//! when or how often they are called are not for views.

mod casts;
mod event_time_joins;
mod integers;
mod json;
mod lists;
mod numbering;
mod postgres;
mod to_char;
mod windows;

use std::sync::Arc;

use datafusion::logical_expr::{ScalarUDF, Volatility, WindowFunctionDefinition, WindowUDF};

use crate::error::{SqlError, sqlstate};

pub(crate) use casts::{PG_CAST, is_postgres_cast, postgres_cast};
pub(crate) use event_time_joins::{ASOF_MATCH, SYSTEM_TIME_AS_OF};
pub(crate) use integers::{integer_function, integer_negate, integer_operator, is_integer};
pub(crate) use json::{JsonOperators, list_function};
pub(crate) use lists::ONLY_ITEM;
pub(crate) use postgres::{BYTEA_LENGTH, SIMILAR_TO_ESCAPE, TIMEZONE};
pub use windows::{CUMULATE_ENDS, HOP_STARTS, TUMBLE_START, WINDOW_END, WINDOWS_PER_ROW_MAX};

/// A scalar function by its name or an alias: DataFusion's default set and ours, configured as views are planned.
#[must_use]
pub fn scalar_function(name: &str) -> Option<Arc<ScalarUDF>> {
    crate::plan::planning_state().scalar_functions().get(name).cloned()
}

/// What can stand before OVER, by its name: DataFusion's window functions and aggregates.
#[must_use]
pub fn window_function(name: &str) -> Option<WindowFunctionDefinition> {
    let state = crate::plan::planning_state();
    let of_windows = state.window_functions().get(name).cloned().map(WindowFunctionDefinition::WindowUDF);
    of_windows.or_else(|| state.aggregate_functions().get(name).cloned().map(WindowFunctionDefinition::AggregateUDF))
}

/// The functions that DataFusion does not have, or has with another meaning than PostgreSQL.
#[must_use]
pub fn own_functions() -> Vec<Arc<ScalarUDF>> {
    [windows::all(), integers::all(), casts::all(), json::all(), lists::all(), postgres::all(), event_time_joins::all()]
        .concat()
}

/// The same for window functions.
#[must_use]
pub fn own_window_functions() -> Vec<Arc<WindowUDF>> {
    numbering::all()
}

/// Refuses a function of this volatility in a view, by name.
pub(crate) fn check_deterministic(name: &str, volatility: Volatility) -> Result<(), SqlError> {
    let why = match volatility {
        Volatility::Immutable => return Ok(()),
        Volatility::Stable => "its result depends on when it is called",
        Volatility::Volatile => "its result differs from call to call",
    };
    let message = format!("function {name}() is not allowed in a materialized view: {why}");
    let hint = match name {
        "now" | "current_date" => {
            "Compare a column with it in WHERE (ts > now() - INTERVAL '1 day'), or use it in the SELECT that reads the view."
        }
        _ => "Use it in the SELECT that reads the view, or store its result in a column when the row is written.",
    };
    Err(SqlError::new(sqlstate::INVALID_DEFINITION, message).with_hint(hint))
}
