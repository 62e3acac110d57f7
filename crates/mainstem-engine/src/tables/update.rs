//! UPDATE: the rows that match, with new values.

use std::collections::BTreeSet;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::{Expr, TableWithJoins};
use mainstem_sql::SqlError;
use mainstem_sql::statement::{Assignment, Update};

use super::DmlError;
use super::assign::assign;
use super::overlay::Row;
use super::statement::{Scope, Touch, Written, quote, target_as, unique_violation};
use crate::input_log::Cut;

pub(super) async fn run(scope: &Scope<'_>, statement: &Update) -> Result<Written, DmlError> {
    let target = scope.target;
    let columns = assigned(scope, &statement.assignments)?;
    let alias = statement.alias.as_deref().unwrap_or(&target.relation.name);
    let mut items = all_columns(scope, alias);
    for (place, assignment) in statement.assignments.iter().enumerate() {
        let value = if Scope::is_default(&assignment.value) {
            scope.default_text(columns[place])
        } else {
            assignment.value.to_string()
        };
        items.push(format!("{value} AS \"__new_{place}\""));
    }
    let query = matching(alias, &target.relation.name, &items, &statement.from, statement.filter.as_ref());
    let mut mentioned = scope.mentioned(&statement.from);
    mentioned.extend(scope.mentioned(&statement.filter));
    for assignment in &statement.assignments {
        mentioned.extend(scope.mentioned(&assignment.value));
    }
    let context = scope.context(&mentioned, vec![scope.target_rows()]).await?;
    let found = scope.select(&context, &query).await?;
    let (old, values) = split(scope, &found)?;
    let mut new = old.columns().to_vec();
    for ((column, values), assignment) in columns.iter().zip(values).zip(&statement.assignments) {
        let untyped = scope.is_untyped(&assignment.value) || Scope::is_default(&assignment.value);
        new[*column] = assign(&target.relation.columns[*column], &values, untyped)?;
    }
    let new = target.batch(new, old.num_rows())?;
    replace(scope, old, new)
}

/// The columns that are assigned to, each once.
pub(super) fn assigned(scope: &Scope<'_>, assignments: &[Assignment]) -> Result<Vec<usize>, DmlError> {
    let mut columns = Vec::with_capacity(assignments.len());
    for assignment in assignments {
        let column = scope.target.column(&assignment.column)?;
        if columns.contains(&column) {
            let text = format!("multiple assignments to same column \"{}\"", assignment.column);
            return Err(SqlError::new("42601", text));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// All columns of the target's row, hidden ones included.
pub(super) fn all_columns(scope: &Scope<'_>, alias: &str) -> Vec<String> {
    let names = scope.target.schema.fields().iter().enumerate();
    names.map(|(place, field)| format!("{}.{} AS \"__old_{place}\"", quote(alias), quote(field.name()))).collect()
}

/// The query for the rows that match.
pub(super) fn matching(
    alias: &str,
    table: &str,
    items: &[String],
    from: &[TableWithJoins],
    filter: Option<&Expr>,
) -> String {
    let mut relations = vec![target_as(table, alias)];
    relations.extend(from.iter().map(ToString::to_string));
    let filter = filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
    format!("SELECT {} FROM {}{filter}", items.join(", "), relations.join(", "))
}

/// The rows as they are, each once, and what was selected besides.
pub(super) fn split(scope: &Scope<'_>, found: &RecordBatch) -> Result<(RecordBatch, Vec<ArrayRef>), DmlError> {
    let width = scope.target.schema.fields().len();
    let old = crate::delta::batch_of(&scope.target.schema, found.columns()[..width].to_vec(), found.num_rows());
    let old = old.map_err(|error| SqlError::new("XX000", error.to_string()))?;
    // A row that a join finds several times is taken once, with the values that come first.
    let mut seen = BTreeSet::new();
    let keys = scope.target.keys_of(scope.image, &old);
    let first: Vec<u32> = (0..).zip(keys).filter_map(|(row, key)| seen.insert(key).then_some(row)).collect();
    if first.len() == old.num_rows() {
        return Ok((old, found.columns()[width..].to_vec()));
    }
    let found = crate::delta::take_rows(found, &first);
    let old = crate::delta::take_rows(&old, &first);
    Ok((old, found.columns()[width..].to_vec()))
}

/// Old rows become new ones, place by place.
pub(super) fn replace(scope: &Scope<'_>, old: RecordBatch, new: RecordBatch) -> Result<Written, DmlError> {
    let mut written = Written { affected: old.num_rows() as u64, ..Written::default() };
    let old_keys = scope.target.keys_of(scope.image, &old);
    let new_keys = scope.target.keys_of(scope.image, &new);
    for ((key, next), row) in old_keys.iter().zip(&new_keys).zip(Row::all(old)) {
        written.touched.insert(key.clone(), Touch::Read);
        if key != next {
            written.overlay.delete(key.clone(), row, Cut::ZERO);
        }
    }
    let moved: Vec<&Box<[u8]>> =
        old_keys.iter().zip(&new_keys).filter(|(key, next)| key != next).map(|(_, next)| next).collect();
    let taken = scope.image.get_many(moved.iter().map(|key| key.as_ref()));
    let taken: std::collections::HashSet<&[u8]> = moved
        .iter()
        .zip(&taken)
        .filter(|(key, row)| row.is_some() && !written.overlay.get(key).is_some_and(|change| change.is_deleted))
        .map(|(key, _)| key.as_ref())
        .collect();
    let mut given = BTreeSet::new();
    for ((key, next), row) in old_keys.iter().zip(&new_keys).zip(Row::all(new)) {
        if !given.insert(next.clone()) || taken.contains(next.as_ref()) {
            return Err(unique_violation(&scope.target.relation, &row));
        }
        if key != next {
            written.touched.entry(next.clone()).or_insert(Touch::Inserted);
        }
        written.overlay.write(next.clone(), row.clone(), Cut::ZERO);
        written.returned.push(row);
    }
    Ok(written)
}
