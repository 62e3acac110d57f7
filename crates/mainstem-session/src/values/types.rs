//! SQL types by PostgreSQL's oids.

use arrow::datatypes::{DataType, Field};
use mainstem_catalog::SqlType;
use mainstem_sql::text::PLAIN_NUMERIC;

/// What a client is told about a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PgType {
    /// `pg_type.oid`
    pub oid: u32,
    /// `typlen`: bytes, -1 for variable.
    pub length: i16,
    /// `atttypmod`: precision and scale; -1 for none.
    pub modifier: i32,
}

/// What a client is told about a type.
#[must_use]
pub fn pg_type(sql_type: &SqlType) -> PgType {
    let (length, modifier) = match sql_type {
        SqlType::Boolean => (1, -1),
        SqlType::SmallInt => (2, -1),
        SqlType::Integer | SqlType::Real | SqlType::Date => (4, -1),
        SqlType::BigInt | SqlType::Double | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz => (8, -1),
        SqlType::Interval | SqlType::Uuid => (16, -1),
        SqlType::Numeric { precision, scale } if (*precision, *scale) != PLAIN_NUMERIC && *scale >= 0 => {
            (-1, ((i32::from(*precision) << 16) | i32::from(*scale)) + 4)
        }
        _ => (-1, -1),
    };
    PgType { oid: oid_of(sql_type), length, modifier }
}

/// Unsigned 32-bit integers are oids: only the system's own columns have them.
pub(super) fn field_type(field: &Field, sql_type: &SqlType) -> PgType {
    match field.data_type() {
        DataType::UInt32 => PgType { oid: 26, length: 4, modifier: -1 },
        _ => pg_type(sql_type),
    }
}

/// `pg_type.oid`.
#[must_use]
pub fn oid_of(sql_type: &SqlType) -> u32 {
    match sql_type {
        SqlType::Boolean => 16,
        SqlType::Bytea => 17,
        SqlType::BigInt => 20,
        SqlType::SmallInt => 21,
        SqlType::Integer => 23,
        SqlType::Real => 700,
        SqlType::Double => 701,
        SqlType::Text => 1043,
        SqlType::Date => 1082,
        SqlType::Time => 1083,
        SqlType::Timestamp => 1114,
        SqlType::Timestamptz => 1184,
        SqlType::Interval => 1186,
        SqlType::Numeric { .. } => 1700,
        SqlType::Uuid => 2950,
        SqlType::Jsonb => 3802,
        SqlType::Struct(_) => 2249,
        SqlType::List(item) => array_oid(item),
    }
}

fn array_oid(item: &SqlType) -> u32 {
    match item {
        SqlType::Boolean => 1000,
        SqlType::Bytea => 1001,
        SqlType::SmallInt => 1005,
        SqlType::Integer => 1007,
        SqlType::Text => 1015,
        SqlType::BigInt => 1016,
        SqlType::Real => 1021,
        SqlType::Double => 1022,
        SqlType::Timestamp => 1115,
        SqlType::Date => 1182,
        SqlType::Time => 1183,
        SqlType::Timestamptz => 1185,
        SqlType::Interval => 1187,
        SqlType::Numeric { .. } => 1231,
        SqlType::Struct(_) => 2287,
        SqlType::Uuid => 2951,
        SqlType::Jsonb => 3807,
        // PostgreSQL's arrays have any number of dimensions under one type.
        SqlType::List(inner) => array_oid(inner),
    }
}

/// The type of a parameter that a client names by oid; `None` for 0 (unspecified) and for `unknown`.
/// Types that are not ours are an error for the caller: `Some(None)`.
#[must_use]
pub fn sql_type_of_oid(oid: u32) -> Option<Option<SqlType>> {
    let numeric = SqlType::Numeric { precision: PLAIN_NUMERIC.0, scale: PLAIN_NUMERIC.1 };
    let list = |item: SqlType| SqlType::List(Box::new(item));
    let known = match oid {
        0 | 705 => return None,
        16 => SqlType::Boolean,
        17 => SqlType::Bytea,
        20 | 26 => SqlType::BigInt,
        21 => SqlType::SmallInt,
        23 => SqlType::Integer,
        700 => SqlType::Real,
        701 => SqlType::Double,
        18 | 19 | 25 | 1042 | 1043 => SqlType::Text,
        1082 => SqlType::Date,
        1083 => SqlType::Time,
        1114 => SqlType::Timestamp,
        1184 => SqlType::Timestamptz,
        1186 => SqlType::Interval,
        1700 => numeric,
        2950 => SqlType::Uuid,
        114 | 3802 => SqlType::Jsonb,
        1000 => list(SqlType::Boolean),
        1001 => list(SqlType::Bytea),
        1005 => list(SqlType::SmallInt),
        1007 => list(SqlType::Integer),
        1003 | 1009 | 1015 => list(SqlType::Text),
        1016 | 1028 => list(SqlType::BigInt),
        1021 => list(SqlType::Real),
        1022 => list(SqlType::Double),
        1115 => list(SqlType::Timestamp),
        1182 => list(SqlType::Date),
        1183 => list(SqlType::Time),
        1185 => list(SqlType::Timestamptz),
        1187 => list(SqlType::Interval),
        1231 => list(numeric),
        2951 => list(SqlType::Uuid),
        199 | 3807 => list(SqlType::Jsonb),
        _ => return Some(None),
    };
    Some(Some(known))
}
