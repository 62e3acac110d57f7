//! Values as PostgreSQL's clients see them: types by oid, text and binary formats, out and in.
//!
//! Words: a *format* is text (0) or binary (1), chosen by the client per column; a *cell* is one value of an Arrow array.
//!
//! Always true here: arrays are first brought to the one layout of their SQL type (`mainstem_sql::arrow_type`), so that
//! the encoders know no other; what is read back from its text is equal, floats by their bits.

mod binary;
mod input;
mod types;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use mainstem_catalog::SqlType;
use mainstem_sql::SqlError;
use mainstem_sql::text::{canonical, write_cell};

pub(crate) use input::literal_text;
pub use input::parameter_text;
pub use mainstem_sql::text::{column_from_text, write_text};
pub use types::{PgType, oid_of, pg_type, sql_type_of_oid};

/// How a column is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// As the type's `send` function gives it.
    Binary,
}

/// A column of a result.
#[derive(Clone, Debug)]
pub struct ResultColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub sql_type: SqlType,
    /// What the client is told about the type.
    pub pg_type: PgType,
    /// How its values are sent.
    pub format: Format,
}

/// Turns batches of one schema into rows of the wire.
#[derive(Debug)]
pub struct RowEncoder {
    columns: Vec<ResultColumn>,
}

/// The columns of a batch in their one layout.
#[derive(Debug)]
pub struct Cells {
    arrays: Vec<ArrayRef>,
    rows: usize,
}

impl RowEncoder {
    /// `formats`: none (all text), one for all, or one per column.
    pub fn new(schema: &Schema, formats: &[Format]) -> Result<RowEncoder, SqlError> {
        let count = schema.fields().len();
        if formats.len() > 1 && formats.len() != count {
            let message = format!("bind message has {} result formats but query has {count} columns", formats.len());
            return Err(SqlError::new("08P01", message));
        }
        let format_of = |i: usize| match formats {
            [] => Format::Text,
            [one] => *one,
            many => many[i],
        };
        let column = |(i, field): (usize, &Arc<arrow::datatypes::Field>)| {
            let sql_type = mainstem_sql::sql_type(field);
            ResultColumn {
                name: field.name().clone(),
                pg_type: types::field_type(field, &sql_type),
                sql_type,
                format: format_of(i),
            }
        };
        Ok(RowEncoder { columns: schema.fields().iter().enumerate().map(column).collect() })
    }

    /// For RowDescription.
    #[must_use]
    pub fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    /// Makes a batch ready.
    pub fn cells(&self, batch: &RecordBatch) -> Result<Cells, SqlError> {
        let arrays = self.columns.iter().zip(batch.columns()).map(|(column, array)| canonical(array, &column.sql_type));
        Ok(Cells { arrays: arrays.collect::<Result<_, _>>()?, rows: batch.num_rows() })
    }

    /// Appends the values of a row, each with its length before it, -1 for null: the body of DataRow after the count.
    pub fn write_row(&self, cells: &Cells, row: usize, out: &mut Vec<u8>) {
        for (column, array) in self.columns.iter().zip(&cells.arrays) {
            if array.is_null(row) {
                out.extend_from_slice(&(-1i32).to_be_bytes());
                continue;
            }
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            match column.format {
                Format::Text if column.pg_type.oid == 16 => out.push(bool_letter(array, row)),
                Format::Text => write_cell(array, row, &column.sql_type, out),
                Format::Binary => binary::write_cell(array, row, &column.sql_type, column.pg_type.oid, out),
            }
            let length = i32::try_from(out.len() - start - 4).expect("values are smaller than 2 GiB");
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

impl Cells {
    /// Rows of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The text of a cell; `None` for null.
    #[must_use]
    pub fn text(&self, encoder: &RowEncoder, row: usize, column: usize) -> Option<String> {
        let array = &self.arrays[column];
        if array.is_null(row) {
            return None;
        }
        let mut out = Vec::new();
        write_cell(array, row, &encoder.columns[column].sql_type, &mut out);
        Some(String::from_utf8_lossy(&out).into_owned())
    }
}

fn bool_letter(array: &ArrayRef, row: usize) -> u8 {
    use arrow::array::AsArray;
    if array.as_boolean().value(row) { b't' } else { b'f' }
}
