//! SHOW and DESCRIBE.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use mainstem_catalog::{Relation, RelationKind};
use mainstem_sql::statement::{RelationNoun, ShowKind};
use mainstem_sql::{QualifiedName, SqlError, Statement};

use crate::session::{Response, Session, Tag};

/// Rows of text under these names.
pub(crate) fn text_rows(names: &[&str], rows: &[Vec<String>], tag: &str) -> Response {
    let schema = text_schema(names);
    let column =
        |i: usize| -> ArrayRef { Arc::new(rows.iter().map(|row| Some(row[i].as_str())).collect::<StringArray>()) };
    let columns: Vec<ArrayRef> = (0..names.len()).map(column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("columns of one length");
    Response::rows(&schema, vec![batch], Tag::Fixed(tag.to_owned()))
}

pub(crate) fn text_schema(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>()))
}

fn columns_of(kind: ShowKind) -> &'static [&'static str] {
    match kind {
        ShowKind::Jobs => &["Id", "Name", "Progress", "State"],
        ShowKind::Topics => &["Name", "Partitions"],
        _ => &["Name"],
    }
}

const DESCRIBED: [&str; 4] = ["Name", "Type", "Is Nullable", "Is Hidden"];
const CREATED: [&str; 2] = ["Name", "Create Sql"];
const ALL: [&str; 3] = ["name", "setting", "description"];

impl Session {
    /// The columns that SHOW and its like will give.
    pub(crate) fn shown_schema(&self, statement: &Statement) -> Option<SchemaRef> {
        match statement {
            Statement::ShowVariable(name) if name == "all" => Some(text_schema(&ALL)),
            Statement::ShowVariable(name) => Some(text_schema(&[shown_name(name)])),
            Statement::ShowObjects { kind, .. } => Some(text_schema(columns_of(*kind))),
            Statement::ShowCreate { .. } => Some(text_schema(&CREATED)),
            Statement::CancelJobs(_) => Some(text_schema(&["Id"])),
            Statement::Describe(_) => Some(text_schema(&DESCRIBED)),
            _ => None,
        }
    }

    pub(crate) fn show_variable(&self, name: &str) -> Result<Response, SqlError> {
        if name == "all" {
            let all = self.settings.all().into_iter();
            let rows: Vec<_> = all.map(|(name, value, text)| vec![name.to_owned(), value, text.to_owned()]).collect();
            return Ok(text_rows(&ALL, &rows, "SHOW"));
        }
        let known = match name {
            "transaction_isolation_level" | "transaction.isolation.level" => "transaction_isolation",
            other => other,
        };
        let serializable = self.transaction.as_ref().is_some_and(|open| open.writes.is_serializable());
        let value = match known {
            "transaction_isolation" if serializable => "serializable".to_owned(),
            _ => self.settings.get(known)?.to_owned(),
        };
        Ok(text_rows(&[shown_name(known)], &[vec![value]], "SHOW"))
    }

    pub(crate) fn show_objects(
        &self,
        kind: ShowKind,
        schema: Option<&str>,
        like: Option<&str>,
    ) -> Result<Response, SqlError> {
        if let Some(schema) = schema.filter(|schema| *schema != "public") {
            return Err(SqlError::new("3F000", format!("schema \"{schema}\" does not exist")));
        }
        let catalog = self.shared.catalogs.current();
        let noun = |wanted: &str| -> Vec<Vec<String>> {
            let of_kind = catalog.named_relations().filter(|relation| relation.kind.noun() == wanted);
            of_kind.map(|relation| vec![relation.name.clone()]).collect()
        };
        let mut rows = match kind {
            ShowKind::Tables => noun("table"),
            ShowKind::Sources => noun("source"),
            ShowKind::MaterializedViews => noun("materialized view"),
            ShowKind::Views => noun("view"),
            ShowKind::Sinks => catalog.sinks().map(|sink| vec![sink.name.clone()]).collect(),
            ShowKind::Schemas => {
                ["information_schema", "mainstem", "pg_catalog", "public"].map(|name| vec![name.to_owned()]).to_vec()
            }
            ShowKind::Databases => vec![vec![self.database.clone()]],
            ShowKind::Functions => Vec::new(),
            ShowKind::Topics => catalog.topics().map(|t| vec![t.name.clone(), t.partitions.to_string()]).collect(),
            ShowKind::Jobs => self.jobs(),
        };
        let name_at = usize::from(kind == ShowKind::Jobs);
        if let Some(pattern) = like {
            rows.retain(|row| is_like(&row[name_at], pattern));
        }
        rows.sort();
        Ok(text_rows(columns_of(kind), &rows, "SHOW"))
    }

    fn jobs(&self) -> Vec<Vec<String>> {
        let job = |job: mainstem_engine::JobStatus| {
            let percent = if job.rows_total == 0 { 0.0 } else { 100.0 * job.rows_done as f64 / job.rows_total as f64 };
            let progress = format!("{percent:.1}% ({}/{})", job.rows_done, job.rows_total);
            vec![job.relation.0.to_string(), job.name, progress, job.state]
        };
        self.shared.engine.jobs().into_iter().map(job).collect()
    }

    fn find(&self, name: &QualifiedName) -> Result<Arc<Relation>, SqlError> {
        let catalog = self.shared.catalogs.current();
        let found = catalog.relation_named(name.schema.as_deref().unwrap_or("public"), &name.name).cloned();
        found.ok_or_else(|| SqlError::new("42P01", format!("relation \"{name}\" does not exist")))
    }

    pub(crate) fn show_create(&self, kind: Option<RelationNoun>, name: &QualifiedName) -> Result<Response, SqlError> {
        if let Some(row) = self.show_create_attached(kind, name)? {
            return Ok(text_rows(&CREATED, &[row], "SHOW"));
        }
        let relation = self.find(name)?;
        if let Some(kind) = kind.filter(|kind| kind.text() != relation.kind.noun()) {
            let message = format!("\"{name}\" is not a {}", kind.text());
            return Err(SqlError::new("42809", message).with_detail(format!("It is a {}.", relation.kind.noun())));
        }
        let full_name = format!("{}.{}", relation.schema, relation.name);
        Ok(text_rows(&CREATED, &[vec![full_name, relation.sql.clone()]], "SHOW"))
    }

    pub(crate) fn describe_relation(&self, name: &QualifiedName) -> Result<Response, SqlError> {
        let relation = self.find(name)?;
        let mut rows: Vec<Vec<String>> = relation
            .columns
            .iter()
            .map(|column| {
                let words = [column.nullable, column.hidden].map(|is| is.to_string());
                let [nullable, hidden] = words;
                vec![column.name.clone(), column.sql_type.to_string(), nullable, hidden]
            })
            .collect();
        if let RelationKind::Table(table) = &relation.kind {
            let names: Vec<&str> = table.primary_key.iter().map(|i| relation.columns[*i].name.as_str()).collect();
            rows.push(vec!["primary key".into(), names.join(", "), String::new(), String::new()]);
        }
        Ok(text_rows(&DESCRIBED, &rows, "DESCRIBE"))
    }
}

/// PostgreSQL shows some settings in their own spelling.
fn shown_name(name: &str) -> &str {
    match name {
        "timezone" => "TimeZone",
        "datestyle" => "DateStyle",
        "intervalstyle" => "IntervalStyle",
        other => other,
    }
}

/// `LIKE` with `%` and `_`.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('%') => {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            let mut ends = ends;
            ends.any(|at| is_like(&text[at..], rest.as_str()))
        }
        Some(wanted) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| wanted == '_' || c == wanted) && is_like(chars.as_str(), rest.as_str())
        }
    }
}
