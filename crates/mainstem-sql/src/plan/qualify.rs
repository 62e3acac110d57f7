//! A query's text with the names of its relations resolved, so that it means the same under another search path.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, TableFactor, VisitMut, VisitorMut,
};
use mainstem_catalog::Catalog;

use super::rewrite::window_function;
use crate::parse::fold;

/// The text. Names of common table expressions stay as they are.
pub(super) fn canonical_text(catalog: &Catalog, query: &Query) -> String {
    let mut query = query.clone();
    let mut expressions = CommonTables::default();
    let _ = query.visit(&mut expressions);
    let _ = query.visit(&mut Qualify { catalog, expressions: expressions.0 });
    query.to_string()
}

#[derive(Default)]
struct CommonTables(HashSet<String>);

impl VisitorMut for CommonTables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.0.extend(tables.map(|table| fold(&table.alias.name)));
        ControlFlow::Continue(())
    }
}

struct Qualify<'a> {
    catalog: &'a Catalog,
    expressions: HashSet<String>,
}

impl Qualify<'_> {
    fn resolved(&self, name: &Ident) -> Option<Vec<Ident>> {
        let folded = fold(name);
        let is_relation =
            !self.expressions.contains(&folded) && self.catalog.relation_named("public", &folded).is_some();
        is_relation.then(|| vec![Ident::new("public"), name.clone()])
    }
}

impl VisitorMut for Qualify<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let is_window = window_function(factor).is_some();
        if let TableFactor::Table { name, args, .. } = factor {
            match (args, name.0.as_slice()) {
                (None, [part]) => {
                    if let Some(parts) = part.as_ident().and_then(|ident| self.resolved(ident)) {
                        *name = ObjectName::from(parts);
                    }
                }
                (Some(args), _) if is_window => {
                    let first = args.args.first_mut();
                    if let Some(
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(data))
                        | FunctionArg::Named { arg: FunctionArgExpr::Expr(data), .. },
                    ) = first
                    {
                        let parts = if let Expr::Identifier(ident) = &*data { self.resolved(ident) } else { None };
                        if let Some(parts) = parts {
                            *data = Expr::CompoundIdentifier(parts);
                        }
                    }
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}
