//! What INSERT, UPDATE and DELETE share: their target, what they wrote, and expressions evaluated over rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{Expr, SelectItem, Value, Visit};
use futures::TryStreamExt;
use mainstem_catalog::{Catalog, Ident, Relation, RelationId, RelationKind, TableDefinition};
use mainstem_sql::statement::{Delete, Insert, Update};
use mainstem_sql::{QualifiedName, SqlError, arrow_schema};

use super::overlay::{Image, Overlay, Row, batch_of_rows};
use super::sequencer::row_id_column;
use super::{DmlError, Tables, delete, insert, update};
use crate::batch::{
    ReadPoint, RowsTable, TARGET_SCHEMA, context_with, plan_text, query_error, quoted, register, relations_of,
    row_text, run as run_plan, visible_columns,
};
use crate::input_log::Cut;

/// A statement that writes.
#[derive(Clone, Debug)]
pub enum Dml {
    /// `INSERT`
    Insert(Insert),
    /// `UPDATE`
    Update(Update),
    /// `DELETE`
    Delete(Delete),
    /// `COPY FROM`, see [`Tables::append`].
    Copy {
        /// Into which table.
        table: QualifiedName,
        /// Its columns, by index.
        columns: Vec<usize>,
        /// Their values.
        rows: Vec<RecordBatch>,
    },
}

impl Dml {
    pub(super) fn table(&self) -> &QualifiedName {
        match self {
            Dml::Insert(insert) => &insert.table,
            Dml::Update(update) => &update.table,
            Dml::Delete(delete) => &delete.table,
            Dml::Copy { table, .. } => table,
        }
    }

    pub(super) fn returning(&self) -> Option<(&[SelectItem], Option<&Ident>)> {
        let (items, alias) = match self {
            Dml::Insert(insert) => (&insert.returning, &insert.alias),
            Dml::Update(update) => (&update.returning, &update.alias),
            Dml::Delete(delete) => (&delete.returning, &delete.alias),
            Dml::Copy { .. } => return None,
        };
        items.as_ref().map(|items| (items.as_slice(), alias.as_ref()))
    }
}

/// A statement with what it needs to run.
#[derive(Clone, Debug)]
pub struct DmlPlan {
    /// The definitions to resolve names in.
    pub catalog: Arc<Catalog>,
    /// The statement.
    pub statement: Dml,
    /// Values of `$1`, `$2`, ...; text that stands for a value of any type is Utf8.
    pub parameters: Vec<ScalarValue>,
    /// What the session has seen or written.
    pub at_least: Cut,
}

impl DmlPlan {
    /// A statement without parameters.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, statement: Dml) -> DmlPlan {
        DmlPlan { catalog, statement, parameters: Vec::new(), at_least: Cut::ZERO }
    }

    fn param_values(&self) -> Option<ParamValues> {
        (!self.parameters.is_empty()).then(|| ParamValues::from(self.parameters.clone()))
    }
}

/// The table that a statement writes to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) relation: Arc<Relation>,
    pub(super) definition: TableDefinition,
    pub(super) schema: SchemaRef,
}

impl Target {
    pub(super) fn of(catalog: &Catalog, name: &QualifiedName) -> Result<Target, DmlError> {
        let schema = name.schema.as_deref().unwrap_or("public");
        let relation = catalog.relation_named(schema, &name.name);
        let missing = || SqlError::new("42P01", format!("relation \"{name}\" does not exist"));
        Target::new(relation.ok_or_else(missing)?.clone())
    }

    pub(super) fn new(relation: Arc<Relation>) -> Result<Target, DmlError> {
        let RelationKind::Table(definition) = &relation.kind else {
            let text = format!("cannot change {} \"{}\"", relation.kind.noun(), relation.name);
            return Err(SqlError::new("42809", text).with_hint("Only tables can be written to by SQL."));
        };
        let schema = arrow_schema(&relation.columns);
        Ok(Target { definition: definition.clone(), schema, relation })
    }

    pub(super) fn name(&self) -> QualifiedName {
        QualifiedName { schema: Some(self.relation.schema.clone()), name: self.relation.name.clone() }
    }

    /// A visible column by name.
    pub(super) fn column(&self, name: &str) -> Result<usize, DmlError> {
        let found = self.relation.column(name).filter(|column| !self.relation.columns[*column].hidden);
        found.ok_or_else(|| {
            let text = format!("column \"{name}\" of relation \"{}\" does not exist", self.relation.name);
            SqlError::new("42703", text)
        })
    }

    pub(super) fn row_id(&self) -> Option<usize> {
        row_id_column(&self.relation)
    }

    /// A batch of all columns, once no column that must have values is null.
    pub(super) fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, DmlError> {
        for (index, values) in columns.iter().enumerate() {
            let column = &self.relation.columns[index];
            let must_be = !column.nullable || self.definition.primary_key.contains(&index);
            if !must_be || values.null_count() == 0 {
                continue;
            }
            let row = (0..values.len()).find(|row| values.is_null(*row)).unwrap_or_default();
            let shown: Vec<_> = visible_columns(&self.relation);
            let failing: Vec<ArrayRef> = shown.iter().map(|column| columns[*column].clone()).collect();
            let fields: Vec<_> = shown.iter().map(|c| self.schema.field(*c).clone().with_nullable(true)).collect();
            let failing = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), failing);
            let text = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                column.name, self.relation.name
            );
            let error = SqlError::new("23502", text);
            return Err(match failing {
                Ok(failing) => error.with_detail(format!("Failing row contains {}.", row_text(&failing, row))),
                Err(_) => error,
            });
        }
        let batch = crate::delta::batch_of(&self.schema, columns, rows).map_err(|error| query_error(error.into()))?;
        Ok(crate::delta::canonical_floats(&batch))
    }

    pub(super) fn keys_of(&self, image: &Image, rows: &RecordBatch) -> Vec<Box<[u8]>> {
        image.version.key_of(rows).iter().map(Box::from).collect()
    }
}

/// How a statement came to change a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Touch {
    /// The key was not there.
    Inserted,
    /// Its row was read, and decided what happens.
    Read,
}

/// What a statement did.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) overlay: Overlay,
    pub(super) touched: BTreeMap<Box<[u8]>, Touch>,
    pub(super) affected: u64,
    /// The rows that RETURNING sees.
    pub(super) returned: Vec<Row>,
}

/// `Key (id)=(1) already exists.`
pub(super) fn unique_violation(relation: &Relation, row: &Row) -> DmlError {
    let RelationKind::Table(definition) = &relation.kind else { unreachable!("only tables have keys") };
    let names: Vec<&str> = definition.primary_key.iter().map(|c| relation.columns[*c].name.as_str()).collect();
    let values = row_text(&row.to_batch(Some(&definition.primary_key)), 0);
    let text = format!("duplicate key value violates unique constraint \"{}_pkey\"", relation.name);
    SqlError::new("23505", text).with_detail(format!("Key ({})={values} already exists.", names.join(", ")))
}

/// Runs the statement over the image of its table; changes nothing itself.
pub(super) async fn run(
    tables: &Tables,
    plan: &DmlPlan,
    target: &Target,
    image: &Image,
    at: &ReadPoint,
) -> Result<Written, DmlError> {
    let scope = Scope { tables, plan, target, image, at };
    match &plan.statement {
        Dml::Insert(statement) => insert::run(&scope, statement).await,
        Dml::Update(statement) => update::run(&scope, statement).await,
        Dml::Delete(statement) => delete::run(&scope, statement).await,
        Dml::Copy { columns, rows, .. } => insert::copy(&scope, columns, rows).await,
    }
}

/// Where the expressions of a statement are evaluated.
pub(super) struct Scope<'s> {
    pub(super) tables: &'s Tables,
    pub(super) plan: &'s DmlPlan,
    pub(super) target: &'s Target,
    pub(super) image: &'s Image,
    pub(super) at: &'s ReadPoint,
}

impl Scope<'_> {
    /// All columns of the target, hidden ones too, as a relation to select from: `"__Target"."name"`.
    pub(super) fn target_rows(&self) -> (String, Arc<dyn TableProvider>) {
        let all = (0..self.target.schema.fields().len()).collect();
        (self.target.relation.name.clone(), Arc::new(RowsTable::new(self.image.clone(), all)))
    }

    /// Rows to select from under a name of the schema [`TARGET_SCHEMA`].
    pub(super) fn rows(name: &str, batch: RecordBatch) -> Result<(String, Arc<dyn TableProvider>), DmlError> {
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(query_error)?;
        Ok((name.to_owned(), Arc::new(table)))
    }

    /// A context for expressions: the relations that they name, the target among them as the statement sees it.
    pub(super) async fn context(
        &self,
        mentioned: &BTreeSet<RelationId>,
        own: Vec<(String, Arc<dyn TableProvider>)>,
    ) -> Result<SessionContext, DmlError> {
        let mentioned: Vec<RelationId> = mentioned.iter().copied().collect();
        let visible = visible_columns(&self.target.relation);
        let target: Arc<dyn TableProvider> = Arc::new(RowsTable::new(self.image.clone(), visible));
        let mut replaced = HashMap::new();
        if mentioned.contains(&self.target.relation.id) {
            replaced.insert(self.target.relation.id, target);
        }
        let (engine, options) = (&self.tables.engine, &self.tables.options);
        let context = context_with(engine, &self.plan.catalog, &mentioned, self.at, options, replaced).await?;
        for (name, rows) in own {
            register(&context, TARGET_SCHEMA, &name, rows);
        }
        Ok(context)
    }

    pub(super) fn mentioned(&self, parts: &impl Visit) -> BTreeSet<RelationId> {
        relations_of(&self.plan.catalog, parts).into_iter().collect()
    }

    /// Runs a query given as text; all of its rows as one batch.
    pub(super) async fn select(&self, context: &SessionContext, query: &str) -> Result<RecordBatch, DmlError> {
        let plan = plan_text(context, query).await?;
        let schema: SchemaRef = plan.schema().inner().clone();
        let mut stream = run_plan(context, plan, self.plan.param_values()).await?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await.map_err(query_error)? {
            batches.push(batch);
        }
        let schema = batches.first().map_or(schema, RecordBatch::schema);
        arrow::compute::concat_batches(&schema, &batches).map_err(|error| query_error(error.into()))
    }

    /// Whether the expression is text that stands for a value of any type.
    pub(super) fn is_untyped(&self, expression: &Expr) -> bool {
        match expression {
            Expr::Value(value) => match &value.value {
                Value::Placeholder(name) => self.parameter(name).is_some_and(|value| value.data_type().is_string()),
                other => matches!(other, Value::SingleQuotedString(_) | Value::EscapedStringLiteral(_) | Value::Null),
            },
            Expr::Nested(inner) => self.is_untyped(inner),
            _ => false,
        }
    }

    /// The value of `$n`.
    pub(super) fn parameter(&self, name: &str) -> Option<&ScalarValue> {
        let number: usize = name.strip_prefix('$')?.parse().ok()?;
        self.plan.parameters.get(number.checked_sub(1)?)
    }

    /// `SET column = DEFAULT`
    pub(super) fn is_default(expression: &Expr) -> bool {
        matches!(expression, Expr::Identifier(name) if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default"))
    }

    /// SQL text of the column's default.
    pub(super) fn default_text(&self, column: usize) -> String {
        self.target.relation.columns[column].default.clone().unwrap_or_else(|| "NULL".to_owned())
    }
}

/// An identifier in quotes.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"__Target"."name" AS "alias"`
pub(super) fn target_as(name: &str, alias: &str) -> String {
    format!("{} AS {}", quoted(TARGET_SCHEMA, name), quote(alias))
}

/// The rows of RETURNING.
pub(super) async fn returning(
    tables: &Tables,
    plan: &DmlPlan,
    target: &Target,
    written: &Written,
) -> Result<Option<Vec<RecordBatch>>, DmlError> {
    let Some((items, alias)) = plan.statement.returning() else { return Ok(None) };
    let shown = visible_columns(&target.relation);
    let rows = batch_of_rows(&target.schema, &written.returned).project(&shown);
    let rows = rows.map_err(|error| query_error(error.into()))?;
    let query = returning_query(target, items, alias);
    let context =
        context_with(&tables.engine, &plan.catalog, &[], &ReadPoint::default(), &tables.options, HashMap::new())
            .await?;
    let (name, rows) = Scope::rows(&target.relation.name, rows)?;
    register(&context, TARGET_SCHEMA, &name, rows);
    let planned = plan_text(&context, &query).await?;
    let schema: SchemaRef = planned.schema().inner().clone();
    let stream = run_plan(&context, planned, plan.param_values()).await?;
    let mut batches: Vec<RecordBatch> = stream.try_collect().await.map_err(query_error)?;
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    Ok(Some(batches))
}

pub(super) fn returning_query(target: &Target, items: &[SelectItem], alias: Option<&Ident>) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    let name = &target.relation.name;
    format!("SELECT {} FROM {}", items.join(", "), target_as(name, alias.unwrap_or(name)))
}
