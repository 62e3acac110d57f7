//! LATE INTO: the table that keeps a source's late rows, made with the source unless it is there and fits.
//!
//! The table has the source's columns and three more: partition and offset of the record, which are its key, and the watermark
//! that the row's partition had before it. It is a table like others: queried, viewed, subscribed to, and emptied by DELETE.

use mainstem_catalog::{
    Catalog, Column, Dependency, Event, LATE_OFFSET_COLUMN, LATE_PARTITION_COLUMN, LATE_WATERMARK_COLUMN, Relation,
    RelationId, RelationKind, SqlType, TableDefinition, Watermark,
};
use mainstem_sql::SqlError;
use uuid::Uuid;

use crate::ddl::{PUBLIC, check_columns, topic_of_table};

/// The table of this name, for a source with these columns over this topic: its id, and the events that make it if it is not
/// there.
pub(crate) fn late_table(
    catalog: &Catalog,
    name: &str,
    (columns, watermark): (&[Column], &Watermark),
    (source_topic, new_topic): (Uuid, Uuid),
) -> Result<(RelationId, Vec<Event>), SqlError> {
    let wanted = late_columns(columns, watermark);
    check_columns(&wanted)?;
    if let Some(table) = catalog.relation_named(PUBLIC, name) {
        check_fits(table, &wanted)?;
        if feeds(catalog, table, source_topic) {
            let message = format!("late rows in \"{name}\" would come back to the source that they were late in");
            return Err(SqlError::new("42P17", message).with_hint("Name another table in LATE INTO."));
        }
        return Ok((table.id, Vec::new()));
    }
    let id = catalog.next_relation_id();
    let primary_key = vec![wanted.len() - 3, wanted.len() - 2];
    let definition = TableDefinition { topic: new_topic, topic_name: name.to_owned(), primary_key, watermark: None };
    let relation = Relation {
        id,
        schema: PUBLIC.to_owned(),
        name: name.to_owned(),
        sql: text_of(name, &wanted),
        columns: wanted,
        kind: RelationKind::Table(definition),
        depends_on: vec![Dependency::Topic(new_topic)],
    };
    let topic = topic_of_table(catalog, name, new_topic)?;
    Ok((id, vec![topic, Event::RelationCreated { relation: Box::new(relation) }]))
}

fn late_columns(columns: &[Column], watermark: &Watermark) -> Vec<Column> {
    let column = |name: &str, sql_type: SqlType, nullable: bool| Column {
        name: name.to_owned(),
        sql_type,
        nullable,
        hidden: false,
        default: None,
    };
    let mut all: Vec<Column> = columns.iter().map(|one| column(&one.name, one.sql_type.clone(), true)).collect();
    all.push(column(LATE_PARTITION_COLUMN, SqlType::Integer, false));
    all.push(column(LATE_OFFSET_COLUMN, SqlType::BigInt, false));
    all.push(column(LATE_WATERMARK_COLUMN, columns[watermark.column].sql_type.clone(), true));
    all
}

/// A table that is there has the same columns, in any order, and the place of the record as its key.
fn check_fits(table: &Relation, wanted: &[Column]) -> Result<(), SqlError> {
    let misfit = |what: String| {
        let list: Vec<String> = wanted.iter().map(|column| format!("{} {}", column.name, column.sql_type)).collect();
        SqlError::new("42809", format!("\"{}\" cannot keep late rows: {what}", table.name)).with_hint(format!(
            "Let CREATE SOURCE make it, or give it these columns: {}, PRIMARY KEY ({LATE_PARTITION_COLUMN}, \
             {LATE_OFFSET_COLUMN}).",
            list.join(", ")
        ))
    };
    let RelationKind::Table(definition) = &table.kind else {
        return Err(misfit(format!("it is a {}", table.kind.noun())));
    };
    for column in wanted {
        match table.columns.iter().find(|there| there.name == column.name) {
            None => return Err(misfit(format!("it has no column \"{}\"", column.name))),
            Some(there) if there.sql_type != column.sql_type => {
                return Err(misfit(format!(
                    "column \"{}\" is {}, not {}",
                    column.name, there.sql_type, column.sql_type
                )));
            }
            Some(_) => {}
        }
    }
    if let Some(other) = table.columns.iter().find(|there| wanted.iter().all(|column| column.name != there.name)) {
        return Err(misfit(format!("it has a column \"{}\" that the source has not", other.name)));
    }
    let key: Vec<&str> = definition.primary_key.iter().map(|column| table.columns[*column].name.as_str()).collect();
    if key != [LATE_PARTITION_COLUMN, LATE_OFFSET_COLUMN] {
        return Err(misfit("its key is not the place of the record".to_owned()));
    }
    Ok(())
}

/// Whether what is written to the table comes, through sources and their late rows, to the topic.
fn feeds(catalog: &Catalog, table: &Relation, topic: Uuid) -> bool {
    let Some(own) = table.topic() else { return false };
    let readers = catalog.relations().filter(|relation| {
        matches!(relation.kind, RelationKind::Source(_)) && relation.topic() == Some(own) && relation.id != table.id
    });
    // No circle was let in before, so that this ends.
    own == topic
        || readers
            .filter_map(|source| source.watermark()?.late_into)
            .filter_map(|late| catalog.relation(late))
            .any(|late| feeds(catalog, late, topic))
}

fn text_of(name: &str, columns: &[Column]) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let one = |column: &Column| {
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", quoted(&column.name), column.sql_type)
    };
    let columns: Vec<String> = columns.iter().map(one).collect();
    format!(
        "CREATE TABLE {} ({}, PRIMARY KEY ({LATE_PARTITION_COLUMN}, {LATE_OFFSET_COLUMN}))",
        quoted(name),
        columns.join(", ")
    )
}
