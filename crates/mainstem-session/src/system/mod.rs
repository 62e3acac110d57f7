//! The system's own schemas: `pg_catalog` and `information_schema` for PostgreSQL's tools, `mainstem` for people.
//!
//! They are ordinary tables, made from the definitions and counters of the moment, for statements that name them. What
//! PostgreSQL's tools write and DataFusion does not read (`regclass`, `OPERATOR(pg_catalog.~)`, ...) is rewritten by the
//! meaning of each construct; no statement is recognised by its text.
//!
//! Always true here: a relation's oid is its id; every oid that a row names is the oid of a row.

mod builder;
mod functions;
mod information_schema;
mod mainstem;
mod pg_catalog;
mod rewrite;
mod sinks;

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use datafusion::sql::sqlparser::ast::{DataType, Expr, Function, ObjectName, Query, Visit, Visitor};
use mainstem_catalog::Catalog;

use crate::session::Session;

pub(crate) use functions::register as register_functions;
pub(crate) use rewrite::rewrite;

/// The system's schemas.
pub(crate) const SCHEMAS: [&str; 3] = ["pg_catalog", "information_schema", "mainstem"];

/// Whether a query needs anything of this module.
pub(crate) fn is_system_query(query: &Query, catalog: &Catalog) -> bool {
    query.visit(&mut Survey { catalog }).is_break()
}

/// The system's tables as they are now.
pub(crate) fn schemas(session: &Session, catalog: &Catalog) -> Vec<(String, Arc<dyn SchemaProvider>)> {
    vec![
        ("pg_catalog".to_owned(), pg_catalog::schema(session, catalog)),
        ("information_schema".to_owned(), information_schema::schema(session, catalog)),
        ("mainstem".to_owned(), mainstem::schema(session, catalog)),
    ]
}

/// An identifier as the catalog has it.
fn folded(name: &ObjectName) -> Vec<String> {
    let fold = |ident: &datafusion::sql::sqlparser::ast::Ident| {
        if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
    };
    name.0.iter().filter_map(|part| part.as_ident().map(fold)).collect()
}

struct Survey<'c> {
    catalog: &'c Catalog,
}

impl Visitor for Survey<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let is_system = match folded(name).as_slice() {
            [name] => pg_catalog::is_table(name) && self.catalog.relation_named("public", name).is_none(),
            [.., schema, _] => SCHEMAS.contains(&schema.as_str()),
            [] => false,
        };
        if is_system { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let is_system = match expr {
            Expr::Function(Function { name, .. }) => match folded(name).as_slice() {
                [name] => functions::is_known(name),
                [.., schema, _] => SCHEMAS.contains(&schema.as_str()),
                [] => false,
            },
            Expr::Cast { data_type, .. } => is_system_type(data_type),
            Expr::Identifier(name) => name.quote_style.is_none() && name.value.eq_ignore_ascii_case("current_schema"),
            _ => false,
        };
        if is_system { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn is_system_type(data_type: &DataType) -> bool {
    match data_type {
        DataType::Regclass => true,
        DataType::Custom(name, _) => match folded(name).as_slice() {
            [name] => name.starts_with("reg") || name == "oid" || name == "name",
            [.., schema, _] => schema == "pg_catalog",
            [] => false,
        },
        _ => false,
    }
}
