//! ALTER and CANCEL JOBS.
//!
//! ADD COLUMN makes the relation anew over the same topic, beside the old one, with all that depends on it, and switches
//! as CREATE OR REPLACE does: readers see the old columns, then the new ones. Records that are older have the default. Views
//! keep the columns that they have, those over `SELECT *` too.

use std::collections::BTreeSet;

use mainstem_catalog::{Catalog, Dependency, Event, Relation, RelationId, RelationKind};
use mainstem_engine::backfill_pace::RATE_SETTING;
use mainstem_sql::parse::{text_with_column, text_with_name};
use mainstem_sql::statement::{AddColumn, Alter, BackfillRate, RelationNoun, Rename};
use mainstem_sql::{QualifiedName, SqlError, Statement, constant, parse_query, plan_query};

use crate::ddl::{PUBLIC, new_name, refusal, source_relation, table_relation};
use crate::replace::{Root, UnderWay, text_of_view};
use crate::session::{Response, Session};
use crate::show::text_rows;

impl Session {
    pub(crate) async fn alter(&mut self, alter: &Alter) -> Result<Response, SqlError> {
        match alter {
            Alter::AddColumn(add) => self.add_column(add).await,
            Alter::Rename(rename) => self.rename(rename).await,
            Alter::Backfill { name, if_exists, rate } => self.set_backfill_rate(name, *if_exists, *rate).await,
        }
    }

    async fn add_column(&mut self, add: &AddColumn) -> Result<Response, SqlError> {
        let tag = format!("ALTER {}", add.kind.text().to_uppercase());
        self.leave_transaction(&tag).await?;
        let catalog = self.shared.catalogs.current();
        let Some(relation) = found(&catalog, add.kind, &add.name, add.if_exists)? else {
            return Ok(skipped(&tag, add.kind, &add.name));
        };
        if relation.columns.iter().any(|column| column.name == add.column.name) {
            let message = format!("column \"{}\" of relation \"{}\" already exists", add.column.name, relation.name);
            if add.if_not_exists {
                return Ok(Response::done_with(tag, SqlError::new("42701", format!("{message}, skipping"))));
            }
            return Err(SqlError::new("42701", message).at(add.position));
        }
        check_default(add)?;
        let is_of_late_rows = relation.watermark().is_some_and(|watermark| watermark.late_into.is_some());
        if is_of_late_rows || catalog.keeps_late_rows(relation.id) {
            let message = format!("\"{}\" and the table of its late rows must have the same columns", relation.name);
            return Err(SqlError::not_supported(message)
                .with_hint("Create another source with the column, and another table in LATE INTO."));
        }
        let sql = text_with_column(&relation.sql, &add.text)?;
        self.replace_with(Root::Altered { id: relation.id, sql }, &tag).await
    }

    async fn rename(&mut self, rename: &Rename) -> Result<Response, SqlError> {
        let tag = format!("ALTER {}", rename.kind.text().to_uppercase());
        self.leave_transaction(&tag).await?;
        new_name(&QualifiedName { schema: None, name: rename.to.clone() })?;
        let rename = rename.clone();
        let (told, is_there) = std::sync::mpsc::channel();
        let (kind, name) = (rename.kind, rename.name.clone());
        self.change(Box::new(move |catalog| {
            let found = found(catalog, rename.kind, &rename.name, rename.if_exists)?;
            let _ = told.send(found.is_some());
            let Some(relation) = found else { return Ok(Vec::new()) };
            let event = renamed(catalog, relation, &rename.to)?;
            catalog.clone().apply(&event).map_err(|refused| refusal(&refused))?;
            Ok(vec![event])
        }))
        .await?;
        if is_there.try_recv().unwrap_or(true) { Ok(Response::done(tag)) } else { Ok(skipped(&tag, kind, &name)) }
    }

    /// Of the view's own backfill, or of that which is to take its place.
    async fn set_backfill_rate(
        &mut self,
        name: &QualifiedName,
        if_exists: bool,
        rate: BackfillRate,
    ) -> Result<Response, SqlError> {
        let (kind, tag) = (RelationNoun::MaterializedView, "ALTER MATERIALIZED VIEW");
        let (name, asked) = (name.clone(), name.clone());
        let (told, is_there) = std::sync::mpsc::channel();
        self.change(Box::new(move |catalog| {
            let found = found(catalog, kind, &name, if_exists)?;
            let _ = told.send(found.is_some());
            let Some(relation) = found else { return Ok(Vec::new()) };
            let aside = catalog.replacement_of(relation.id).map(|replacement| replacement.new.clone());
            let ids = aside.unwrap_or_else(|| vec![relation.id]);
            let relations = ids.iter().filter_map(|id| catalog.relation(*id)).filter_map(|relation| {
                let mut relation = relation.as_ref().clone();
                let RelationKind::MaterializedView(view) = &mut relation.kind else { return None };
                set_rate(&mut view.settings, rate);
                Some(relation)
            });
            Ok(vec![Event::RelationsAltered { relations: relations.collect() }])
        }))
        .await?;
        if is_there.try_recv().unwrap_or(true) { Ok(Response::done(tag)) } else { Ok(skipped(tag, kind, &asked)) }
    }

    /// Views that are not ready go, and who waits for them is told.
    pub(crate) async fn cancel_jobs(&mut self, ids: &[u32]) -> Result<Response, SqlError> {
        self.leave_transaction("CANCEL JOBS").await?;
        let mut cancelled = Vec::new();
        for id in ids.iter().map(|id| RelationId(*id)) {
            if !self.shared.engine.jobs().iter().any(|job| job.relation == id) {
                let message = format!("there is no job {}", id.0);
                return Err(SqlError::new("42704", message).with_hint("SHOW JOBS lists them."));
            }
            let catalog = self.shared.catalogs.current();
            let replacement = catalog.replacements().find(|(_, replacement)| replacement.new.contains(&id));
            let under_way = match replacement {
                Some((root, replacement)) => UnderWay::Replacement { root, first: replacement.new[0] },
                None => UnderWay::View(id),
            };
            under_way.take_back(&self.shared).await?;
            if self.shared.catalogs.current().relation(id).is_some() {
                let message = format!("job {} cannot be cancelled: other views depend on what it makes", id.0);
                return Err(SqlError::new("2BP01", message).with_hint("Cancel their jobs, or drop them, first."));
            }
            cancelled.push(vec![id.0.to_string()]);
        }
        Ok(text_rows(&["Id"], &cancelled, "CANCEL JOBS"))
    }
}

/// Puts the rate among the settings of a view's definition.
pub(crate) fn set_rate(settings: &mut Vec<(String, String)>, rate: BackfillRate) {
    settings.retain(|(name, _)| name != RATE_SETTING);
    match rate {
        BackfillRate::Resumed => {}
        BackfillRate::Paused => settings.push((RATE_SETTING.to_owned(), "0".to_owned())),
        BackfillRate::RowsPerSecond(rows) => settings.push((RATE_SETTING.to_owned(), rows.to_string())),
    }
}

fn skipped(tag: &str, kind: RelationNoun, name: &QualifiedName) -> Response {
    let message = format!("{} \"{name}\" does not exist, skipping", kind.text());
    Response::done_with(tag, SqlError::new("00000", message))
}

/// The relation if it is of the kind; none when it is not there and need not be.
fn found<'c>(
    catalog: &'c Catalog,
    kind: RelationNoun,
    name: &QualifiedName,
    if_exists: bool,
) -> Result<Option<&'c Relation>, SqlError> {
    match catalog.relation_named(name.schema.as_deref().unwrap_or(PUBLIC), &name.name) {
        Some(relation) if relation.kind.noun() == kind.text() => Ok(Some(relation.as_ref())),
        Some(relation) => Err(SqlError::new("42809", format!("\"{name}\" is not a {}", kind.text()))
            .with_detail(format!("It is a {}.", relation.kind.noun()))),
        None if if_exists => Ok(None),
        None => Err(SqlError::new("42P01", format!("{} \"{name}\" does not exist", kind.text()))),
    }
}

/// Rows that are there get the default, so it must be one value for all.
fn check_default(add: &AddColumn) -> Result<(), SqlError> {
    let name = &add.column.name;
    let value = match &add.column.default {
        Some(text) => Some(constant(text, &add.column.sql_type).map_err(|error| error.at(add.position))?),
        None => None,
    };
    if add.column.not_null && value.is_none_or(|value| value.is_null()) && add.kind == RelationNoun::Table {
        return Err(SqlError::new("23502", format!("column \"{name}\" contains null values"))
            .at(add.position)
            .with_hint("Give it a DEFAULT, which the rows that are there get."));
    }
    if add.column.not_null && add.kind == RelationNoun::Source {
        return Err(SqlError::new("23502", format!("column \"{name}\" contains null values"))
            .at(add.position)
            .with_hint("Records that are there may have no such member: leave NOT NULL out."));
    }
    Ok(())
}

/// The relation as its changed text defines it, over the same topic.
pub(crate) fn redefined(trial: &Catalog, old: &Relation, sql: &str) -> Result<Relation, SqlError> {
    let statement = mainstem_sql::parse(sql)?.pop();
    let (columns, kind) = match (&old.kind, statement) {
        (RelationKind::Table(before), Some(Statement::CreateTable(create))) => {
            let (columns, mut table) = table_relation(&create, before.topic)?;
            table.topic_name.clone_from(&before.topic_name);
            (columns, RelationKind::Table(table))
        }
        (RelationKind::Source(before), Some(Statement::CreateSource(create))) => {
            let (columns, source) = source_relation(&create, before.topic)?;
            (columns, RelationKind::Source(source))
        }
        _ => return Err(SqlError::new("XX000", "the definition's text is of another kind")),
    };
    Ok(Relation {
        id: trial.next_relation_id(),
        schema: old.schema.clone(),
        name: old.name.clone(),
        columns,
        kind,
        depends_on: old.depends_on.clone(),
        sql: sql.to_owned(),
    })
}

/// What has another name, and the texts that say it.
fn renamed(catalog: &Catalog, relation: &Relation, to: &str) -> Result<Event, SqlError> {
    if let Some(existing) = catalog.relation_named(PUBLIC, to) {
        return Err(SqlError::new("42P07", format!("relation \"{to}\" already exists"))
            .with_detail(format!("It is a {}.", existing.kind.noun())));
    }
    let ids = catalog.with_dependents(relation.id);
    if let Some(busy) = ids.iter().find(|id| catalog.is_being_replaced(**id)).and_then(|id| catalog.relation(*id)) {
        return Err(SqlError::new("55006", format!("{} \"{}\" is being replaced", busy.kind.noun(), busy.name)));
    }
    let mut altered = relation.clone();
    to.clone_into(&mut altered.name);
    altered.sql = text_with_name(&relation.sql, to)?;
    let mut relations = vec![altered];
    let direct: BTreeSet<RelationId> =
        catalog.dependents(Dependency::Relation(relation.id)).iter().map(|dependent| dependent.id).collect();
    for dependent in direct.iter().filter_map(|id| catalog.relation(*id)) {
        let mut altered = dependent.as_ref().clone();
        let (RelationKind::View(view) | RelationKind::MaterializedView(view)) = &mut altered.kind else {
            let (noun, name) = (dependent.kind.noun(), &dependent.name);
            return Err(SqlError::new("2BP01", format!("cannot rename {} {}", relation.kind.noun(), relation.name))
                .with_detail(format!("{noun} {name} depends on it."))
                .with_hint("Drop it first."));
        };
        view.query = mainstem_sql::parse::query_with_name(&view.query, &relation.name, to)?;
        altered.sql = text_of_view(dependent, view, &view.query);
        relations.push(altered);
    }
    let event = Event::RelationsAltered { relations: relations.clone() };
    let mut after = catalog.clone();
    after.apply(&event).map_err(|refused| refusal(&refused))?;
    for dependent in &relations[1..] {
        let (RelationKind::View(view) | RelationKind::MaterializedView(view)) = &dependent.kind else { continue };
        let names: Vec<String> = dependent.columns.iter().map(|column| column.name.clone()).collect();
        let planned = parse_query(&view.query).and_then(|query| plan_query(&after, &query, &names));
        if let Err(error) = planned {
            let (noun, name) = (dependent.kind.noun(), &dependent.name);
            return Err(SqlError::new("2BP01", format!("cannot rename {} {}", relation.kind.noun(), relation.name))
                .with_detail(format!("{noun} {name} depends on it by its name: {}", error.message))
                .with_hint("Drop it first, or give the relation an alias in its query."));
        }
    }
    Ok(event)
}
