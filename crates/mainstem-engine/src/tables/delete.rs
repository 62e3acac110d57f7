//! DELETE: the rows that match become tombstones.

use mainstem_sql::statement::Delete;

use super::DmlError;
use super::overlay::Row;
use super::statement::{Scope, Touch, Written};
use super::update::{all_columns, matching, split};
use crate::input_log::Cut;

pub(super) async fn run(scope: &Scope<'_>, statement: &Delete) -> Result<Written, DmlError> {
    let alias = statement.alias.as_deref().unwrap_or(&scope.target.relation.name);
    let items = all_columns(scope, alias);
    let query = matching(alias, &scope.target.relation.name, &items, &statement.using, statement.filter.as_ref());
    let mut mentioned = scope.mentioned(&statement.using);
    mentioned.extend(scope.mentioned(&statement.filter));
    let context = scope.context(&mentioned, vec![scope.target_rows()]).await?;
    let found = scope.select(&context, &query).await?;
    let (old, _) = split(scope, &found)?;
    let mut written = Written { affected: old.num_rows() as u64, ..Written::default() };
    for (key, row) in scope.target.keys_of(scope.image, &old).into_iter().zip(Row::all(old)) {
        written.touched.insert(key.clone(), Touch::Read);
        written.returned.push(row.clone());
        written.overlay.delete(key, row, Cut::ZERO);
    }
    Ok(written)
}
