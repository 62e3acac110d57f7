//! What goes wrong with a statement, as a PostgreSQL client wants to hear it.

use datafusion::common::{DataFusionError, SchemaError};

/// An error of a statement: SQLSTATE, text, and where and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// Five characters, PostgreSQL's.
    pub sqlstate: &'static str,
    /// One line, no full stop.
    pub message: String,
    /// Character in the statement's text, from 1.
    pub position: Option<usize>,
    /// What to do about it.
    pub hint: Option<String>,
    /// More about it.
    pub detail: Option<String>,
}

/// SQLSTATEs that are used here.
pub mod sqlstate {
    /// feature_not_supported
    pub const NOT_SUPPORTED: &str = "0A000";
    /// cardinality_violation
    pub const CARDINALITY: &str = "21000";
    /// division_by_zero and other data errors in constants
    pub const DATA: &str = "22000";
    /// invalid_datetime_format
    pub const INVALID_DATETIME: &str = "22007";
    /// invalid_parameter_value
    pub const INVALID_PARAMETER: &str = "22023";
    /// syntax_error
    pub const SYNTAX: &str = "42601";
    /// undefined_column
    pub const UNDEFINED_COLUMN: &str = "42703";
    /// undefined_function
    pub const UNDEFINED_FUNCTION: &str = "42883";
    /// undefined_table
    pub const UNDEFINED_TABLE: &str = "42P01";
    /// duplicate_column
    pub const DUPLICATE_COLUMN: &str = "42701";
    /// ambiguous_column
    pub const AMBIGUOUS_COLUMN: &str = "42702";
    /// duplicate_alias
    pub const DUPLICATE_ALIAS: &str = "42712";
    /// grouping_error
    pub const GROUPING: &str = "42803";
    /// datatype_mismatch
    pub const TYPE_MISMATCH: &str = "42804";
    /// wrong_object_type
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    /// invalid_object_definition: also a view that is not deterministic
    pub const INVALID_DEFINITION: &str = "42P17";
    /// invalid_table_definition
    pub const INVALID_TABLE: &str = "42P16";
    /// invalid_schema_name
    pub const UNDEFINED_SCHEMA: &str = "3F000";
    /// statement_too_complex
    pub const TOO_COMPLEX: &str = "54001";
    /// Too many columns.
    pub const TOO_MANY_COLUMNS: &str = "54011";
    /// internal_error
    pub const INTERNAL: &str = "XX000";
}

impl SqlError {
    /// An error with nothing but its text.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> SqlError {
        SqlError { sqlstate, message: message.into(), position: None, hint: None, detail: None }
    }

    /// `0A000`, naming the construct.
    pub fn not_supported(message: impl Into<String>) -> SqlError {
        SqlError::new(sqlstate::NOT_SUPPORTED, message)
    }

    /// `42601`.
    pub fn syntax(message: impl Into<String>) -> SqlError {
        SqlError::new(sqlstate::SYNTAX, message)
    }

    /// `54001`.
    #[must_use]
    pub fn too_complex() -> SqlError {
        SqlError::new(sqlstate::TOO_COMPLEX, "statement is too complex: it is nested too deeply")
            .with_hint("Write it with fewer levels of nesting, for example x IN (...) for a long chain of ORs.")
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> SqlError {
        self.hint = Some(hint.into());
        self
    }

    /// Adds more about it.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> SqlError {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the place, unless it is known already.
    #[must_use]
    pub fn at(mut self, position: usize) -> SqlError {
        self.position.get_or_insert(position);
        self
    }
}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> DataFusionError {
        DataFusionError::External(Box::new(error))
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> SqlError {
        if let Some(own) = own_error(&error) {
            return own.clone();
        }
        let root = error.find_root();
        let state = match root {
            DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
                SchemaError::AmbiguousReference { .. } => sqlstate::AMBIGUOUS_COLUMN,
                SchemaError::FieldNotFound { .. } => sqlstate::UNDEFINED_COLUMN,
                _ => sqlstate::DUPLICATE_COLUMN,
            },
            DataFusionError::SQL(..) => sqlstate::SYNTAX,
            DataFusionError::NotImplemented(_) => sqlstate::NOT_SUPPORTED,
            DataFusionError::Plan(message) => plan_sqlstate(message),
            DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => sqlstate::DATA,
            _ => sqlstate::INTERNAL,
        };
        let message = match root {
            DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
                SchemaError::FieldNotFound { field, .. } => format!("column \"{}\" does not exist", field.flat_name()),
                SchemaError::AmbiguousReference { field } => {
                    format!("column reference \"{}\" is ambiguous", field.flat_name())
                }
                other => other.to_string(),
            },
            DataFusionError::Plan(message)
            | DataFusionError::NotImplemented(message)
            | DataFusionError::Execution(message) => message.clone(),
            other => other.strip_backtrace(),
        };
        let line = message.lines().next().unwrap_or_default();
        let line = shorten(line.trim().trim_end_matches('.'));
        let rest: Vec<&str> = message.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut error = SqlError::new(state, line);
        error.detail = (!rest.is_empty()).then(|| rest.join(" "));
        error
    }
}

/// Leaves out what is of no use to who wrote the statement.
fn shorten(line: &str) -> String {
    let line = ["Internal error: ", "Error during planning: ", "Schema error: "]
        .iter()
        .fold(line, |line, prefix| line.strip_prefix(prefix).unwrap_or(line));
    let line = line.split_once(", errors:").map_or(line, |(start, _)| start);
    match (line.find("column \""), line.find(" must appear in the GROUP BY")) {
        (Some(start), Some(end)) if start < end => {
            format!("{} must appear in the GROUP BY clause or be used in an aggregate function", &line[start..end])
        }
        _ => line.to_owned(),
    }
}

/// DataFusion has one kind of planning error; PostgreSQL's clients tell these apart.
fn plan_sqlstate(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    let has = |needle: &str| lower.contains(needle);
    if has("invalid function") || has("no function matches") || has("failed to coerce arguments") {
        sqlstate::UNDEFINED_FUNCTION
    } else if has("must appear in the group by")
        || has("non-aggregate")
        || has("could not be resolved from available columns")
    {
        sqlstate::GROUPING
    } else if has("table") && (has("not found") || has("does not exist")) {
        sqlstate::UNDEFINED_TABLE
    } else if has("cannot coerce") || has("cannot infer common") || has("incompatible") || has("type mismatch") {
        sqlstate::TYPE_MISMATCH
    } else if has("duplicate") || has("unique expression names") {
        sqlstate::DUPLICATE_COLUMN
    } else {
        sqlstate::SYNTAX
    }
}

fn own_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a SqlError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<SqlError>() {
            return Some(own);
        }
        if let Some(DataFusionError::External(boxed)) = error.downcast_ref::<DataFusionError>() {
            let inner: &(dyn std::error::Error + 'static) = boxed.as_ref();
            if let Some(own) = inner.downcast_ref::<SqlError>() {
                return Some(own);
            }
        }
        next = error.source();
    }
    None
}
