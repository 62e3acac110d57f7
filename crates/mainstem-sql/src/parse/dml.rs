//! INSERT, UPDATE, DELETE: sqlparser's statements with only the parts that PostgreSQL has.

use datafusion::sql::sqlparser::ast::{
    self, AssignmentTarget, ConflictTarget, FromTable, OnConflictAction, OnInsert, TableFactor, TableObject,
    TableWithJoins, UpdateTableFromKind,
};

use super::reader::Reader;
use super::{fold, qualified_name};
use crate::error::SqlError;
use crate::statement::{Assignment, ConflictAction, Delete, Insert, OnConflict, QualifiedName, Statement, Update};

impl Reader<'_> {
    /// INSERT, UPDATE or DELETE.
    pub(super) fn dml(&mut self) -> Result<Statement, SqlError> {
        let result = self.parser.parse_statement();
        let statement = self.parsed(result)?;
        let statement = self.flat(statement)?;
        self.end()?;
        match statement {
            ast::Statement::Insert(parsed) => insert(parsed).map(Statement::Insert),
            ast::Statement::Update(parsed) => update(parsed).map(Statement::Update),
            ast::Statement::Delete(parsed) => delete(parsed).map(Statement::Delete),
            other => Err(SqlError::not_supported(format!("{other} is not supported"))),
        }
    }
}

fn insert(parsed: ast::Insert) -> Result<Insert, SqlError> {
    let TableObject::TableName(table) = &parsed.table else {
        return Err(SqlError::not_supported("INSERT INTO a function is not supported"));
    };
    let on_conflict = match parsed.on {
        None => None,
        Some(OnInsert::OnConflict(conflict)) => Some(on_conflict(conflict)?),
        Some(_) => return Err(SqlError::not_supported("ON DUPLICATE KEY UPDATE is not supported")),
    };
    Ok(Insert {
        table: qualified_name(table)?,
        alias: parsed.table_alias.map(|alias| fold(&alias.alias)),
        columns: parsed.columns.iter().map(column_name).collect::<Result<_, _>>()?,
        source: parsed.source,
        on_conflict,
        returning: parsed.returning,
    })
}

fn on_conflict(parsed: ast::OnConflict) -> Result<OnConflict, SqlError> {
    let columns = match parsed.conflict_target {
        None => vec![],
        Some(ConflictTarget::Columns(columns)) => columns.iter().map(fold).collect(),
        Some(ConflictTarget::OnConstraint(name)) => {
            return Err(SqlError::not_supported(format!("ON CONFLICT ON CONSTRAINT {name} is not supported"))
                .with_hint("Name the columns of the primary key."));
        }
    };
    let action = match parsed.action {
        OnConflictAction::DoNothing => ConflictAction::Nothing,
        OnConflictAction::DoUpdate(update) => {
            if columns.is_empty() {
                return Err(SqlError::syntax("ON CONFLICT DO UPDATE requires the columns of the primary key"));
            }
            ConflictAction::Update { assignments: assignments(update.assignments)?, filter: update.selection }
        }
    };
    Ok(OnConflict { columns, action })
}

fn update(parsed: ast::Update) -> Result<Update, SqlError> {
    let (table, alias) = target(&parsed.table)?;
    if parsed.limit.is_some() || !parsed.order_by.is_empty() {
        return Err(SqlError::not_supported("ORDER BY and LIMIT of UPDATE are not supported"));
    }
    let from = match parsed.from {
        None => vec![],
        Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => from,
    };
    let assignments = assignments(parsed.assignments)?;
    Ok(Update { table, alias, assignments, from, filter: parsed.selection, returning: parsed.returning })
}

fn delete(parsed: ast::Delete) -> Result<Delete, SqlError> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &parsed.from;
    let [table] = from.as_slice() else {
        return Err(SqlError::not_supported("DELETE from several tables is not supported"));
    };
    let (table, alias) = target(table)?;
    if parsed.limit.is_some() || !parsed.order_by.is_empty() {
        return Err(SqlError::not_supported("ORDER BY and LIMIT of DELETE are not supported"));
    }
    let using = parsed.using.unwrap_or_default();
    Ok(Delete { table, alias, using, filter: parsed.selection, returning: parsed.returning })
}

fn target(table: &TableWithJoins) -> Result<(QualifiedName, Option<String>), SqlError> {
    match &table.relation {
        TableFactor::Table { name, alias, args: None, .. } if table.joins.is_empty() => {
            Ok((qualified_name(name)?, alias.as_ref().map(|alias| fold(&alias.name))))
        }
        other => Err(SqlError::syntax(format!("{other} is not the name of a table"))),
    }
}

fn assignments(parsed: Vec<ast::Assignment>) -> Result<Vec<Assignment>, SqlError> {
    let one = |assignment: ast::Assignment| match &assignment.target {
        AssignmentTarget::ColumnName(name) => Ok(Assignment { column: column_name(name)?, value: assignment.value }),
        AssignmentTarget::Tuple(_) => {
            Err(SqlError::not_supported("SET (a, b) = ... is not supported").with_hint("Write SET a = ..., b = ..."))
        }
    };
    parsed.into_iter().map(one).collect()
}

fn column_name(name: &ast::ObjectName) -> Result<String, SqlError> {
    match name.0.as_slice() {
        [part] => part.as_ident().map(fold).ok_or_else(|| SqlError::syntax(format!("{name} is not a column"))),
        _ => Err(SqlError::syntax(format!("{name} is not the name of a column of the table"))),
    }
}
