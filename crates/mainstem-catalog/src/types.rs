//! SQL types of columns, by PostgreSQL's names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of a column. How each is laid out in Arrow is decided in `mainstem-sql`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqlType {
    /// `boolean`
    Boolean,
    /// `smallint`
    SmallInt,
    /// `integer`
    Integer,
    /// `bigint`
    BigInt,
    /// `real`
    Real,
    /// `double precision`
    Double,
    /// `numeric(precision, scale)`; without them 38 and 10.
    Numeric {
        /// Digits in all, at most 38.
        precision: u8,
        /// Digits after the point.
        scale: i8,
    },
    /// `varchar`, `text`, `char`
    Text,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time`, microseconds
    Time,
    /// `timestamp`, microseconds
    Timestamp,
    /// `timestamptz`, microseconds, UTC
    Timestamptz,
    /// `interval`
    Interval,
    /// `jsonb`
    Jsonb,
    /// `uuid`
    Uuid,
    /// `type[]`
    List(Box<SqlType>),
    /// `struct<name type, ...>`
    Struct(Vec<(String, SqlType)>),
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            SqlType::Boolean => "boolean",
            SqlType::SmallInt => "smallint",
            SqlType::Integer => "integer",
            SqlType::BigInt => "bigint",
            SqlType::Real => "real",
            SqlType::Double => "double precision",
            SqlType::Numeric { precision, scale } => return write!(f, "numeric({precision},{scale})"),
            SqlType::Text => "character varying",
            SqlType::Bytea => "bytea",
            SqlType::Date => "date",
            SqlType::Time => "time without time zone",
            SqlType::Timestamp => "timestamp without time zone",
            SqlType::Timestamptz => "timestamp with time zone",
            SqlType::Interval => "interval",
            SqlType::Jsonb => "jsonb",
            SqlType::Uuid => "uuid",
            SqlType::List(of) => return write!(f, "{of}[]"),
            SqlType::Struct(fields) => {
                f.write_str("struct<")?;
                for (i, (name, of)) in fields.iter().enumerate() {
                    write!(f, "{}{name} {of}", if i == 0 { "" } else { ", " })?;
                }
                return f.write_str(">");
            }
        };
        f.write_str(name)
    }
}
