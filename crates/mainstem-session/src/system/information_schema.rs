//! `information_schema`: the standard's views of the definitions.

use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use mainstem_catalog::{Catalog, RelationKind, SqlType};

use super::builder::{Cell, Tables, row};
use super::pg_catalog::{format_type, primary_key};
use crate::session::Session;
use crate::values::oid_of;

pub(super) fn schema(session: &Session, catalog: &Catalog) -> Arc<dyn SchemaProvider> {
    let tables = Tables::default();
    let database = session.database.as_str();
    let (mut relations, mut columns, mut views) = (vec![], vec![], vec![]);
    let (mut constraints, mut usages) = (vec![], vec![]);
    for relation in catalog.named_relations() {
        let name = relation.name.as_str();
        let (kind, is_table) = match &relation.kind {
            RelationKind::Table(_) => ("BASE TABLE", true),
            RelationKind::Source(_) => ("SOURCE", false),
            RelationKind::View(_) => ("VIEW", false),
            RelationKind::MaterializedView(_) => ("MATERIALIZED VIEW", false),
        };
        let writable = if is_table { "YES" } else { "NO" };
        relations.push(row![database, "public", name, kind, writable, "NO"]);
        if let RelationKind::View(view) | RelationKind::MaterializedView(view) = &relation.kind {
            views.push(row![database, "public", name, view.query.as_str(), "NONE", "NO", "NO"]);
        }
        for (number, column) in relation.columns.iter().enumerate().filter(|(_, column)| !column.hidden) {
            let oid = oid_of(&column.sql_type);
            let (data_type, udt) = match &column.sql_type {
                SqlType::List(item) => ("ARRAY".to_owned(), format!("_{}", udt_name(oid_of(item)))),
                _ => (format_type(oid, None), udt_name(oid)),
            };
            let (precision, scale) = match &column.sql_type {
                SqlType::SmallInt => (Some(16), Some(0)),
                SqlType::Integer => (Some(32), Some(0)),
                SqlType::BigInt => (Some(64), Some(0)),
                SqlType::Numeric { precision, scale } => (Some(i64::from(*precision)), Some(i64::from(*scale))),
                _ => (None, None),
            };
            let nullable = if column.nullable { "YES" } else { "NO" };
            let mut row = row![database, "public", name, column.name.as_str(), number as i64 + 1];
            row.extend(row![column.default.clone(), nullable, data_type, Cell::Null, precision, scale]);
            row.extend(row!["pg_catalog", udt, "NO", "NEVER", writable]);
            columns.push(row);
        }
        if let Some(key) = primary_key(relation) {
            let constraint = format!("{name}_pkey");
            let mut row = row![database, "public", constraint.as_str(), database, "public", name, "PRIMARY KEY"];
            row.extend(row!["NO", "NO", "YES"]);
            constraints.push(row);
            for (place, index) in key.iter().enumerate() {
                let column = relation.columns[*index].name.as_str();
                let mut row = row![database, "public", constraint.as_str(), database, "public", name, column];
                row.extend(row![place as i64 + 1, Cell::Null]);
                usages.push(row);
            }
        }
    }
    tables.add(
        "tables",
        "table_catalog:t table_schema:t table_name:t table_type:t is_insertable_into:t is_typed:t",
        relations,
    );
    tables.add(
        "columns",
        "table_catalog:t table_schema:t table_name:t column_name:t ordinal_position:i4 column_default:t is_nullable:t \
         data_type:t character_maximum_length:i4 numeric_precision:i4 numeric_scale:i4 udt_schema:t udt_name:t \
         is_identity:t is_generated:t is_updatable:t",
        columns,
    );
    tables.add(
        "views",
        "table_catalog:t table_schema:t table_name:t view_definition:t check_option:t is_updatable:t \
         is_insertable_into:t",
        views,
    );
    let schemata = ["information_schema", "mainstem", "pg_catalog", "public"];
    let schemata = schemata.map(|name| row![database, name, session.user.as_str()]);
    tables.add("schemata", "catalog_name:t schema_name:t schema_owner:t", schemata.to_vec());
    tables.add(
        "table_constraints",
        "constraint_catalog:t constraint_schema:t constraint_name:t table_catalog:t table_schema:t table_name:t \
         constraint_type:t is_deferrable:t initially_deferred:t enforced:t",
        constraints,
    );
    tables.add(
        "key_column_usage",
        "constraint_catalog:t constraint_schema:t constraint_name:t table_catalog:t table_schema:t table_name:t \
         column_name:t ordinal_position:i4 position_in_unique_constraint:i4",
        usages,
    );
    tables.add("routines", "routine_catalog:t routine_schema:t routine_name:t routine_type:t data_type:t", vec![]);
    tables.add(
        "referential_constraints",
        "constraint_catalog:t constraint_schema:t constraint_name:t unique_constraint_name:t",
        vec![],
    );
    tables.finish()
}

fn udt_name(oid: u32) -> String {
    let found = super::pg_catalog::TYPES.iter().find(|(known, ..)| *known == oid);
    found.map_or_else(|| "record".to_owned(), |(_, name, ..)| (*name).to_owned())
}
