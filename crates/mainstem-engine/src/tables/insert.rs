//! INSERT and COPY: new rows, and what to do where their key is taken.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem, SetExpr, UnaryOperator, Value};
use mainstem_sql::SqlError;
use mainstem_sql::arrow_types::arrow_type;
use mainstem_sql::statement::{Assignment, ConflictAction, Insert, OnConflict};

use super::DmlError;
use super::assign::{assign, number_text};
use super::overlay::{Row, batch_of_rows};
use super::sequencer::{PROVISIONAL_ROW_ID, row_ids};
use super::statement::{Scope, Touch, Written, quote, target_as, unique_violation};
use super::update::assigned;
use crate::batch::query_error;
use crate::input_log::Cut;

/// Expressions evaluated in one query.
const CELLS_PER_QUERY: usize = 64;
/// Joins the two sides of a conflict.
const ORDINAL: &str = "__ordinal";

pub(super) async fn run(scope: &Scope<'_>, statement: &Insert) -> Result<Written, DmlError> {
    let columns = columns_of(scope, statement)?;
    let (columns, values, rows) = match &statement.source {
        None => (Vec::new(), Vec::new(), 1),
        Some(query) => match values_of(query) {
            Some(rows) => {
                let width = rows.first().map_or(0, |row| row.len());
                let columns = limited(&columns, width, statement)?;
                let values = literal_columns(scope, &columns, &rows).await?;
                (columns, values, rows.len())
            }
            None => {
                let context = scope.context(&scope.mentioned(query.as_ref()), Vec::new()).await?;
                let mut named = query.as_ref().clone();
                mainstem_sql::plan::distinct_names(&mut named);
                let found = scope.select(&context, &named.to_string()).await?;
                let columns = limited(&columns, found.num_columns(), statement)?;
                let untyped = untyped_items(scope, query);
                let assigned = columns.iter().zip(found.columns()).enumerate().map(|(place, (column, values))| {
                    let untyped = untyped.get(place).copied().unwrap_or_default();
                    assign(&scope.target.relation.columns[*column], values, untyped)
                });
                (columns.clone(), assigned.collect::<Result<Vec<_>, _>>()?, found.num_rows())
            }
        },
    };
    let rows = completed(scope, &columns, values, rows).await?;
    match &statement.on_conflict {
        None => insert(scope, rows),
        Some(conflict) => on_conflict(scope, statement, conflict, rows).await,
    }
}

/// Rows that come typed, or as text.
pub(super) async fn copy(scope: &Scope<'_>, columns: &[usize], batches: &[RecordBatch]) -> Result<Written, DmlError> {
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let mut values = Vec::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        let column = &scope.target.relation.columns[*column];
        let parts = batches.iter().map(|batch| assign(column, batch.column(place), true));
        let parts: Vec<ArrayRef> = parts.collect::<Result<_, _>>()?;
        values.push(joined(&parts, &arrow_type(&column.sql_type))?);
    }
    let rows = completed(scope, columns, values, rows).await?;
    insert(scope, rows)
}

fn joined(parts: &[ArrayRef], data_type: &DataType) -> Result<ArrayRef, DmlError> {
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    if parts.is_empty() {
        return Ok(new_null_array(data_type, 0));
    }
    concat(&parts).map_err(|error| query_error(error.into()))
}

pub(super) fn columns_of(scope: &Scope<'_>, statement: &Insert) -> Result<Vec<usize>, DmlError> {
    if statement.columns.is_empty() {
        return Ok(crate::batch::visible_columns(&scope.target.relation));
    }
    let mut columns = Vec::with_capacity(statement.columns.len());
    for name in &statement.columns {
        let column = scope.target.column(name)?;
        if columns.contains(&column) {
            return Err(SqlError::new("42701", format!("column \"{name}\" specified more than once")));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// The columns that get values: without a list, rows may be shorter than the table.
fn limited(columns: &[usize], width: usize, statement: &Insert) -> Result<Vec<usize>, DmlError> {
    if width > columns.len() {
        return Err(SqlError::new("42601", "INSERT has more expressions than target columns"));
    }
    if width < columns.len() && !statement.columns.is_empty() {
        return Err(SqlError::new("42601", "INSERT has more target columns than expressions"));
    }
    Ok(columns[..width].to_vec())
}

/// The rows of a plain VALUES list.
fn values_of(query: &Query) -> Option<Vec<&[Expr]>> {
    let SetExpr::Values(values) = query.body.as_ref() else { return None };
    let is_plain =
        query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
    is_plain.then(|| values.rows.iter().map(|row| &row[..]).collect())
}

/// Which columns of a SELECT are text that stands for a value of any type.
fn untyped_items(scope: &Scope<'_>, query: &Query) -> Vec<bool> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Vec::new() };
    let untyped = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. } => Some(scope.is_untyped(value)),
        _ => None,
    };
    // Behind a wildcard the places are not known.
    select.projection.iter().map_while(untyped).collect()
}

/// A cell of VALUES that needs no evaluation, or must be evaluated.
enum Cell<'e> {
    Text(Option<String>),
    Typed(ArrayRef),
    Evaluated(&'e Expr),
    Default,
}

async fn literal_columns(scope: &Scope<'_>, columns: &[usize], rows: &[&[Expr]]) -> Result<Vec<ArrayRef>, DmlError> {
    if rows.iter().any(|row| row.len() != columns.len()) {
        return Err(SqlError::new("42601", "VALUES lists must all be the same length"));
    }
    let mut cells: Vec<Vec<Cell<'_>>> = Vec::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        let of_column = rows.iter().map(|row| cell(scope, *column, &row[place]));
        cells.push(of_column.collect::<Result<_, _>>()?);
    }
    evaluate(scope, columns, &mut cells).await?;
    columns.iter().zip(cells).map(|(column, cells)| column_of(scope, *column, cells)).collect()
}

fn cell<'e>(scope: &Scope<'_>, column: usize, expression: &'e Expr) -> Result<Cell<'e>, DmlError> {
    if Scope::is_default(expression) {
        return Ok(Cell::Default);
    }
    let definition = &scope.target.relation.columns[column];
    Ok(match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Cell::Text(Some(text.clone())),
            Value::Null => Cell::Text(None),
            Value::Number(text, _) => number(definition, text.clone()).map_or(Cell::Evaluated(expression), Cell::Text),
            Value::Placeholder(name) => match scope.parameter(name) {
                Some(value) => Cell::Typed(assign(
                    definition,
                    &value.to_array().map_err(query_error)?,
                    value.data_type().is_string(),
                )?),
                None => return Err(SqlError::new("42P02", format!("there is no parameter {name}"))),
            },
            _ => Cell::Evaluated(expression),
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) => {
                    number(definition, format!("-{text}")).map_or(Cell::Evaluated(expression), Cell::Text)
                }
                _ => Cell::Evaluated(expression),
            },
            _ => Cell::Evaluated(expression),
        },
        _ => Cell::Evaluated(expression),
    })
}

/// The number as text of the column's type, all digits kept; absent if the column is not numeric.
fn number(column: &mainstem_catalog::Column, text: String) -> Option<Option<String>> {
    number_text(&column.sql_type, text).map(Some)
}

/// Puts values in place of the cells that must be evaluated.
async fn evaluate(scope: &Scope<'_>, columns: &[usize], cells: &mut [Vec<Cell<'_>>]) -> Result<(), DmlError> {
    let mut places = Vec::new();
    for (column, of_column) in cells.iter().enumerate() {
        for (row, cell) in of_column.iter().enumerate() {
            match cell {
                Cell::Evaluated(value) => {
                    places.push((column, row, value.to_string(), scope.is_untyped(value), scope.mentioned(*value)));
                }
                Cell::Default => {
                    let text = scope.default_text(columns[column]);
                    places.push((column, row, text, true, Default::default()));
                }
                Cell::Text(_) | Cell::Typed(_) => {}
            }
        }
    }
    for places in places.chunks(CELLS_PER_QUERY) {
        let mentioned = places.iter().flat_map(|(.., mentioned)| mentioned.iter().copied()).collect();
        let items = places.iter().enumerate().map(|(at, (_, _, text, ..))| format!("{text} AS \"__cell_{at}\""));
        let query = format!("SELECT {}", items.collect::<Vec<_>>().join(", "));
        let context = scope.context(&mentioned, Vec::new()).await?;
        let found = scope.select(&context, &query).await?;
        for ((column, row, _, untyped, _), value) in places.iter().zip(found.columns()) {
            let definition = &scope.target.relation.columns[columns[*column]];
            cells[*column][*row] = Cell::Typed(assign(definition, value, *untyped)?);
        }
    }
    Ok(())
}

fn column_of(scope: &Scope<'_>, column: usize, cells: Vec<Cell<'_>>) -> Result<ArrayRef, DmlError> {
    let definition = &scope.target.relation.columns[column];
    let mut parts: Vec<ArrayRef> = Vec::new();
    let mut texts: Vec<Option<String>> = Vec::new();
    let flush = |texts: &mut Vec<Option<String>>, parts: &mut Vec<ArrayRef>| {
        if !texts.is_empty() {
            let array: ArrayRef = Arc::new(texts.drain(..).collect::<arrow::array::StringArray>());
            parts.push(assign(definition, &array, true)?);
        }
        Ok::<(), DmlError>(())
    };
    for cell in cells {
        match cell {
            Cell::Text(text) => texts.push(text),
            Cell::Typed(value) => {
                flush(&mut texts, &mut parts)?;
                parts.push(value);
            }
            Cell::Evaluated(_) | Cell::Default => unreachable!("evaluated before"),
        }
    }
    flush(&mut texts, &mut parts)?;
    joined(&parts, &arrow_type(&definition.sql_type))
}

/// Rows of all columns: defaults where no value was given, provisional row ids.
async fn completed(
    scope: &Scope<'_>,
    columns: &[usize],
    values: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, DmlError> {
    let target = scope.target;
    let mut all: Vec<Option<ArrayRef>> = vec![None; target.schema.fields().len()];
    for (column, values) in columns.iter().zip(values) {
        all[*column] = Some(values);
    }
    let mut complete = Vec::with_capacity(all.len());
    for (column, values) in all.into_iter().enumerate() {
        let definition = &target.relation.columns[column];
        complete.push(match values {
            Some(values) => values,
            None if target.row_id() == Some(column) => {
                let first = PROVISIONAL_ROW_ID + scope.tables.sequencers.reserve_provisional(rows);
                let ids: Vec<i64> = (first..).take(rows).collect();
                row_ids(&ids, target.schema.field(column).data_type())
            }
            None if definition.default.is_some() && rows > 0 => {
                let ordinals: ArrayRef = Arc::new((0..rows as i64).collect::<Int64Array>());
                let schema = Schema::new(vec![Field::new(ORDINAL, DataType::Int64, false)]);
                let batch = RecordBatch::try_new(Arc::new(schema), vec![ordinals]).expect("one column");
                let context = scope.context(&Default::default(), vec![Scope::rows("new", batch)?]).await?;
                let query = format!("SELECT {} FROM {}", scope.default_text(column), target_as("new", "new"));
                let found = scope.select(&context, &query).await?;
                assign(definition, found.column(0), true)?
            }
            None => new_null_array(target.schema.field(column).data_type(), rows),
        });
    }
    target.batch(complete, rows)
}

fn insert(scope: &Scope<'_>, rows: RecordBatch) -> Result<Written, DmlError> {
    let keys = scope.target.keys_of(scope.image, &rows);
    let taken = scope.image.get_many(keys.iter().map(AsRef::as_ref));
    let mut written = Written { affected: rows.num_rows() as u64, ..Written::default() };
    for ((key, taken), row) in keys.into_iter().zip(taken).zip(Row::all(rows)) {
        if taken.is_some() || written.touched.insert(key.clone(), Touch::Inserted).is_some() {
            return Err(unique_violation(&scope.target.relation, &row));
        }
        written.overlay.write(key, row.clone(), Cut::ZERO);
        written.returned.push(row);
    }
    Ok(written)
}

async fn on_conflict(
    scope: &Scope<'_>,
    statement: &Insert,
    conflict: &OnConflict,
    rows: RecordBatch,
) -> Result<Written, DmlError> {
    check_conflict_columns(scope, conflict)?;
    let keys = scope.target.keys_of(scope.image, &rows);
    let taken = scope.image.get_many(keys.iter().map(AsRef::as_ref));
    let mut written = Written::default();
    let mut conflicts: Vec<(Box<[u8]>, Row, Row)> = Vec::new();
    let mut seen = HashSet::new();
    for ((key, taken), row) in keys.into_iter().zip(taken).zip(Row::all(rows)) {
        let is_first = seen.insert(key.clone());
        match (&conflict.action, taken) {
            (ConflictAction::Update { .. }, _) if !is_first => {
                let text = "ON CONFLICT DO UPDATE command cannot affect row a second time";
                let hint = "Ensure that no rows proposed for insertion within the same command have duplicate keys.";
                return Err(SqlError::new("21000", text).with_hint(hint));
            }
            (ConflictAction::Nothing, _) if !is_first => {}
            (ConflictAction::Nothing, Some(_)) => drop(written.touched.insert(key, Touch::Read)),
            (ConflictAction::Update { .. }, Some(old)) => conflicts.push((key, old, row)),
            (_, None) => {
                // That it is not there decided what happens: a later insert of the key is a conflict of COMMIT.
                written.touched.insert(key.clone(), Touch::Read);
                written.overlay.write(key, row.clone(), Cut::ZERO);
                written.returned.push(row);
                written.affected += 1;
            }
        }
    }
    if let ConflictAction::Update { assignments, filter } = &conflict.action
        && !conflicts.is_empty()
    {
        update_conflicts(scope, statement, (assignments, filter.as_ref()), conflicts, &mut written).await?;
    }
    Ok(written)
}

fn check_conflict_columns(scope: &Scope<'_>, conflict: &OnConflict) -> Result<(), DmlError> {
    if conflict.columns.is_empty() {
        return match conflict.action {
            ConflictAction::Nothing => Ok(()),
            ConflictAction::Update { .. } => {
                Err(SqlError::new("42601", "ON CONFLICT DO UPDATE requires inference specification or constraint name"))
            }
        };
    }
    let named = conflict.columns.iter().map(|name| scope.target.column(name)).collect::<Result<Vec<_>, _>>()?;
    let mut named = named;
    let mut key = scope.target.definition.primary_key.clone();
    named.sort_unstable();
    key.sort_unstable();
    if named == key {
        return Ok(());
    }
    let text = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
    Err(SqlError::new("42P10", text))
}

/// The rows that are there, with the values that SET gives them, where the filter holds.
async fn update_conflicts(
    scope: &Scope<'_>,
    statement: &Insert,
    (assignments, filter): (&[Assignment], Option<&Expr>),
    conflicts: Vec<(Box<[u8]>, Row, Row)>,
    written: &mut Written,
) -> Result<(), DmlError> {
    let target = scope.target;
    let columns = assigned(scope, assignments)?;
    let alias = statement.alias.as_deref().unwrap_or(&target.relation.name);
    let olds: Vec<Row> = conflicts.iter().map(|(_, old, _)| old.clone()).collect();
    let news: Vec<Row> = conflicts.iter().map(|(.., new)| new.clone()).collect();
    let old = batch_of_rows(&target.schema, &olds);
    let mut mentioned = scope.mentioned(&filter.cloned());
    let mut items = vec![format!("{}.\"{ORDINAL}\"", quote(alias))];
    for (place, assignment) in assignments.iter().enumerate() {
        mentioned.extend(scope.mentioned(&assignment.value));
        let is_default = Scope::is_default(&assignment.value);
        let text = if is_default { scope.default_text(columns[place]) } else { assignment.value.to_string() };
        items.push(format!("{text} AS \"__new_{place}\""));
    }
    let filter = filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
    let query = format!(
        "SELECT {} FROM {} JOIN {} ON {}.\"{ORDINAL}\" = excluded.\"{ORDINAL}\"{filter}",
        items.join(", "),
        target_as("old", alias),
        target_as("excluded", "excluded"),
        quote(alias),
    );
    let sides = vec![
        Scope::rows("old", numbered(&old)?)?,
        Scope::rows("excluded", numbered(&batch_of_rows(&target.schema, &news))?)?,
    ];
    let context = scope.context(&mentioned, sides).await?;
    let found = scope.select(&context, &query).await?;
    let ordinals = found.column(0).as_primitive::<Int64Type>();
    let chosen: Vec<u32> = ordinals.values().iter().map(|ordinal| *ordinal as u32).collect();
    let before = crate::delta::take_rows(&old, &chosen);
    let mut values = before.columns().to_vec();
    for ((column, assignment), given) in columns.iter().zip(assignments).zip(&found.columns()[1..]) {
        let untyped = scope.is_untyped(&assignment.value) || Scope::is_default(&assignment.value);
        values[*column] = assign(&target.relation.columns[*column], given, untyped)?;
    }
    let after = target.batch(values, before.num_rows())?;
    let updated = super::update::replace(scope, before, after)?;
    if updated.touched.keys().any(|key| written.overlay.get(key).is_some()) {
        return Err(SqlError::new("21000", "ON CONFLICT DO UPDATE command cannot affect row a second time"));
    }
    // Also where the filter does not hold the row decided.
    written.touched.extend(conflicts.into_iter().map(|(key, ..)| (key, Touch::Read)));
    merge(written, updated);
    Ok(())
}

fn merge(written: &mut Written, updated: Written) {
    for (key, touch) in updated.touched {
        let known = written.touched.entry(key).or_insert(touch);
        *known = (*known).max(touch);
    }
    written.overlay.extend(updated.overlay, Cut::ZERO);
    written.affected += updated.affected;
    written.returned.extend(updated.returned);
}

/// The rows with their places.
fn numbered(rows: &RecordBatch) -> Result<RecordBatch, DmlError> {
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(ORDINAL, DataType::Int64, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new((0..rows.num_rows() as i64).collect::<Int64Array>()));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| query_error(error.into()))
}
