//! Tables from rows: columns by a short text, `oid:o relname:t relnatts:i2 relhasindex:b reltuples:f4 conkey:a`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Int16Array, Int16Builder, Int32Array, Int64Array, ListBuilder, RecordBatch,
    StringArray, StringBuilder, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::datasource::MemTable;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    Int2s(Vec<i16>),
}

impl From<bool> for Cell {
    fn from(value: bool) -> Cell {
        Cell::Bool(value)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Cell {
        Cell::Int(value)
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Cell {
        Cell::Int(i64::from(value))
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Cell {
        Cell::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Cell {
        Cell::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Cell {
        Cell::Text(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Null, Into::into)
    }
}

/// A row: `row![oid, "name", true]`.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::system::builder::Cell::from($value)),*] };
}
pub(super) use row;

/// Tables of one schema.
#[derive(Debug, Default)]
pub(super) struct Tables(MemorySchemaProvider);

impl Tables {
    /// # Panics
    /// If a row does not have a value per column.
    pub(super) fn add(&self, name: &str, columns: &str, rows: Vec<Vec<Cell>>) {
        let specs: Vec<(&str, &str)> =
            columns.split_whitespace().map(|spec| spec.split_once(':').expect("name:type")).collect();
        assert!(rows.iter().all(|row| row.len() == specs.len()), "{name}: a value per column");
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = specs
            .iter()
            .enumerate()
            .map(|(i, (column, kind))| {
                let array = array(kind, rows.iter().map(|row| &row[i]), rows.len());
                (Field::new(*column, array.data_type().clone(), true), array)
            })
            .unzip();
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(schema.clone(), arrays).expect("columns of one length");
        let table = MemTable::try_new(schema, vec![vec![batch]]).expect("a batch of the schema");
        self.0.register_table(name.to_owned(), Arc::new(table)).expect("names are distinct");
    }

    pub(super) fn finish(self) -> Arc<dyn SchemaProvider> {
        Arc::new(self.0)
    }
}

fn array<'c>(kind: &str, cells: impl Iterator<Item = &'c Cell>, _rows: usize) -> ArrayRef {
    let int = |cell: &Cell| if let Cell::Int(value) = cell { Some(*value) } else { None };
    match kind {
        "b" => Arc::new(cells.map(|c| if let Cell::Bool(v) = c { Some(*v) } else { None }).collect::<BooleanArray>()),
        "i2" => Arc::new(cells.map(|c| int(c).and_then(|v| i16::try_from(v).ok())).collect::<Int16Array>()),
        "i4" => Arc::new(cells.map(|c| int(c).and_then(|v| i32::try_from(v).ok())).collect::<Int32Array>()),
        "i8" => Arc::new(cells.map(int).collect::<Int64Array>()),
        "o" => Arc::new(cells.map(|c| int(c).and_then(|v| u32::try_from(v).ok())).collect::<UInt32Array>()),
        "f4" => Arc::new(cells.map(|c| int(c).map(|v| v as f32)).collect::<Float32Array>()),
        "t" => Arc::new(
            cells.map(|c| if let Cell::Text(v) = c { Some(v.as_str()) } else { None }).collect::<StringArray>(),
        ),
        "a" => {
            let mut builder = ListBuilder::new(Int16Builder::new());
            for cell in cells {
                match cell {
                    Cell::Int2s(values) => {
                        values.iter().for_each(|value| builder.values().append_value(*value));
                        builder.append(true);
                    }
                    _ => builder.append(false),
                }
            }
            Arc::new(builder.finish())
        }
        "ta" => {
            let mut builder = ListBuilder::new(StringBuilder::new());
            cells.for_each(|_| builder.append(false));
            Arc::new(builder.finish())
        }
        other => unreachable!("a column of kind {other}: {:?}", DataType::Null),
    }
}
