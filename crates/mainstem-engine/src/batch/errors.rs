//! Errors of running queries, as a PostgreSQL client wants to hear them.

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use mainstem_sql::SqlError;

use crate::error::EngineError;
use crate::input_log::LogError;

/// The error of a query that was planned or run.
#[must_use]
pub fn query_error(error: DataFusionError) -> SqlError {
    let root = error.find_root();
    if let DataFusionError::ResourcesExhausted(_) = root {
        return SqlError::new("53200", "out of memory: the query needs more than query_memory_bytes").with_hint(
            "Select fewer rows or columns, group by fewer keys, or keep the result as a materialized view.",
        );
    }
    match root {
        DataFusionError::ArrowError(arrow, _) => arrow_error(arrow),
        DataFusionError::Execution(message) => match data_sqlstate(message) {
            Some(state) => SqlError::new(state, first_line(message)),
            None => error.into(),
        },
        DataFusionError::External(cause) => {
            if let Some(log) = cause.downcast_ref::<LogError>() {
                return log_error(log);
            }
            error.into()
        }
        _ => error.into(),
    }
}

fn arrow_error(error: &ArrowError) -> SqlError {
    if matches!(error, ArrowError::DivideByZero) {
        return SqlError::new("22012", "division by zero");
    }
    let message = match error {
        ArrowError::CastError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::ParseError(message)
        | ArrowError::ArithmeticOverflow(message)
        | ArrowError::InvalidArgumentError(message) => message.clone(),
        other => other.to_string(),
    };
    let fallback = match error {
        ArrowError::ParseError(_) | ArrowError::CastError(_) => "22P02",
        ArrowError::ArithmeticOverflow(_) => "22003",
        _ => "22000",
    };
    SqlError::new(data_sqlstate(&message).unwrap_or(fallback), first_line(&message))
}

/// The error that stands in a view.
#[must_use]
pub fn view_error(view: &str, message: &str) -> SqlError {
    SqlError::new(data_sqlstate(message).unwrap_or("XX000"), first_line(message)).with_detail(format!(
        "Rows that view \"{view}\" reads cannot be evaluated; it is readable again when they are changed or deleted."
    ))
}

fn first_line(message: &str) -> String {
    let message = message.trim_start_matches("Arrow error: ").trim_start_matches("Execution error: ");
    if message.to_lowercase().contains("divide by zero") {
        return "division by zero".to_owned();
    }
    message.lines().next().unwrap_or_default().trim().trim_end_matches('.').to_owned()
}

fn data_sqlstate(message: &str) -> Option<&'static str> {
    let lower = message.to_lowercase();
    let has = |needle: &str| lower.contains(needle);
    if has("divide by zero") || has("division by zero") {
        Some("22012")
    } else if has("overflow") || has("out of range") || has("out of the range") || has("too large to store") {
        Some("22003")
    } else if has("invalid input syntax")
        || has("cannot cast string")
        || has("cannot parse")
        || has("error parsing")
        || has("cast error")
    {
        Some("22P02")
    } else if has("more than one row returned by a subquery") {
        Some("21000")
    } else {
        None
    }
}

pub(crate) fn log_error(error: &LogError) -> SqlError {
    let state = match error {
        LogError::Damaged { .. } => "XX001",
        LogError::UnknownPartition { .. } | LogError::Trimmed { .. } => "58P01",
        LogError::Failed(_) => "58030",
    };
    SqlError::new(state, error.to_string())
}

pub(crate) fn engine_error(error: &EngineError) -> SqlError {
    let state = match error {
        EngineError::UnknownRelation(_) => "42P01",
        EngineError::NotReady { .. } => "55000",
        EngineError::Stopped => "57P01",
        EngineError::Log(log) => return log_error(log),
        _ => "XX000",
    };
    SqlError::new(state, error.to_string())
}
