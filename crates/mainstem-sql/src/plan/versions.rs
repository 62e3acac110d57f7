//! `JOIN v FOR SYSTEM_TIME AS OF a.ts ON a.k = v.k`: the version of v's row that was valid at a.ts, as an ASOF JOIN by v's event time.
//!
//! A relation is *versioned* if each version of a row stands in it as a row of its own, beginning at the time in the column of its
//! WATERMARK: a source, or a table whose primary key has that column in it. A table that keeps only the last row of a key
//! has no history, and is refused; what has no watermark at all can be joined by ASOF JOIN, where the query names the time.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Join, JoinConstraint, JoinOperator,
    ObjectName, Query, SetExpr, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use mainstem_catalog::{Catalog, Relation, RelationKind};

use super::syntax::call;
use crate::error::{SqlError, sqlstate};
use crate::functions::{ASOF_MATCH, SYSTEM_TIME_AS_OF};
use crate::parse::{fold, qualified_name};

/// Replaces each FOR SYSTEM_TIME AS OF of a query, at any nesting.
pub fn rewrite_versions(catalog: &Catalog, query: &mut Query) -> Result<(), SqlError> {
    match query.visit(&mut Versions { catalog }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Versions<'a> {
    catalog: &'a Catalog,
}

impl VisitorMut for Versions<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        match self.body(&mut query.body) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Versions<'_> {
    fn body(&self, body: &mut SetExpr) -> Result<(), SqlError> {
        match body {
            SetExpr::Select(select) => select.from.iter_mut().try_for_each(|from| self.joins(from)),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left)?;
                self.body(right)
            }
            _ => Ok(()),
        }
    }

    fn joins(&self, from: &mut TableWithJoins) -> Result<(), SqlError> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = &mut from.relation {
            self.joins(table_with_joins)?;
        }
        for join in &mut from.joins {
            if let TableFactor::NestedJoin { table_with_joins, .. } = &mut join.relation {
                self.joins(table_with_joins)?;
            }
            self.join(join)?;
        }
        Ok(())
    }

    fn join(&self, join: &mut Join) -> Result<(), SqlError> {
        use JoinOperator as J;
        let (J::Join(on)
        | J::Inner(on)
        | J::Left(on)
        | J::LeftOuter(on)
        | J::Right(on)
        | J::RightOuter(on)
        | J::FullOuter(on)) = &mut join.join_operator
        else {
            return Ok(());
        };
        let JoinConstraint::On(condition) = on else { return Ok(()) };
        let Some(time) = mark(condition).and_then(|mark| argument(mark)) else { return Ok(()) };
        let version = self.version(&join.relation)?;
        let equal = equal_columns(condition, &version.alias);
        if let Some(missing) = version.keys.iter().find(|key| !equal.contains(key)) {
            let message = format!(
                "FOR SYSTEM_TIME AS OF needs an equality on \"{missing}\", which is in the primary key of \"{}\"",
                version.relation.name
            );
            return Err(SqlError::new(sqlstate::INVALID_DEFINITION, message)
                .with_hint("Without it the versions of different rows could not be told apart."));
        }
        let column = |name: &str| Ident::with_quote('"', name);
        let valid_from = Expr::CompoundIdentifier(vec![version.alias.clone(), column(&version.time)]);
        let matching = Expr::BinaryOp { left: Box::new(time), op: BinaryOperator::GtEq, right: Box::new(valid_from) };
        if let Some(mark) = mark(condition) {
            *mark = call(ASOF_MATCH, vec![matching]);
        }
        Ok(())
    }

    fn version(&self, factor: &TableFactor) -> Result<Version<'_>, SqlError> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else {
            return Err(not_versioned("a subquery or a function", "it has no WATERMARK"));
        };
        let relation = self.find(name)?;
        let named = alias.as_ref().map(|alias| alias.name.clone());
        let alias = named.or_else(|| name.0.last().and_then(|part| part.as_ident().cloned()));
        let alias = alias.ok_or_else(|| SqlError::syntax(format!("{name} is not the name of a relation")))?;
        let what = format!("{} \"{}\"", relation.kind.noun(), relation.name);
        let name_of = |column: &usize| relation.columns[*column].name.clone();
        let names = |columns: &[usize]| columns.iter().map(name_of).collect::<Vec<String>>();
        let (watermark, keys): (_, Vec<String>) = match &relation.kind {
            RelationKind::Source(source) => (source.watermark.as_ref(), vec![]),
            RelationKind::Table(table) => {
                let is_declared = table.primary_key.iter().any(|column| !relation.columns[*column].hidden);
                let time = table.watermark.as_ref().map(|watermark| watermark.column);
                if let (true, Some(time)) = (is_declared, time)
                    && !table.primary_key.contains(&time)
                {
                    let reason = "it keeps only the last row of each key, not the rows that were valid before";
                    return Err(not_versioned(&what, reason).with_hint(format!(
                        "Make each version a row of its own: PRIMARY KEY ({}, {}).",
                        names(&table.primary_key).join(", "),
                        relation.columns[time].name
                    )));
                }
                let mut keys = if is_declared { names(&table.primary_key) } else { Vec::new() };
                keys.retain(|key| time.is_none_or(|time| *key != relation.columns[time].name));
                (table.watermark.as_ref(), keys)
            }
            RelationKind::View(_) | RelationKind::MaterializedView(_) => (None, vec![]),
        };
        let watermark = watermark.ok_or_else(|| not_versioned(&what, "it has no WATERMARK"))?;
        Ok(Version { relation, alias, time: relation.columns[watermark.column].name.clone(), keys })
    }

    fn find(&self, name: &ObjectName) -> Result<&Relation, SqlError> {
        let name = qualified_name(name)?;
        let schema = name.schema.as_deref().unwrap_or("public");
        self.catalog.relation_named(schema, &name.name).map(|relation| &**relation).ok_or_else(|| {
            let message = format!("relation \"{}\" does not exist", name.name);
            SqlError::new(sqlstate::UNDEFINED_TABLE, message)
                .with_hint("FOR SYSTEM_TIME AS OF reads a source or a table.")
        })
    }
}

/// A relation whose rows are versions.
struct Version<'a> {
    relation: &'a Relation,
    /// Its name in the query.
    alias: Ident,
    /// The column of its event time.
    time: String,
    /// Columns that name the row whose versions they are, as far as they are declared.
    keys: Vec<String>,
}

fn not_versioned(what: &str, reason: &str) -> SqlError {
    SqlError::not_supported(format!("FOR SYSTEM_TIME AS OF cannot read {what}: {reason}"))
        .with_hint("Name the time in the query: a ASOF JOIN v ON a.key = v.key AND a.time >= v.valid_from.")
}

/// The mark among the parts of a condition.
fn mark(condition: &mut Expr) -> Option<&mut Expr> {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => mark(left).or_else(|| mark(right)),
        Expr::Nested(inner) => mark(inner),
        Expr::Function(function) if matches!(function.name.0.as_slice(), [part] if part.as_ident().is_some_and(|name| fold(name) == SYSTEM_TIME_AS_OF)) => {
            Some(condition)
        }
        _ => None,
    }
}

fn argument(mark: &Expr) -> Option<Expr> {
    let Expr::Function(function) = mark else { return None };
    let FunctionArguments::List(list) = &function.args else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(time))] => Some(time.clone()),
        _ => None,
    }
}

/// The columns of the relation with this name that a condition sets equal to something.
fn equal_columns(condition: &Expr, alias: &Ident) -> Vec<String> {
    let column = |expr: &Expr| match expr {
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [.., relation, column] if fold(relation) == fold(alias) => Some(fold(column)),
            _ => None,
        },
        Expr::Identifier(column) => Some(fold(column)),
        _ => None,
    };
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            [equal_columns(left, alias), equal_columns(right, alias)].concat()
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            [left, right].into_iter().filter_map(|side| column(side)).collect()
        }
        Expr::Nested(inner) => equal_columns(inner, alias),
        _ => Vec::new(),
    }
}
