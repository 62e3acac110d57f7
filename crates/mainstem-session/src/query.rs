//! SELECT and writes.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::Query;
use futures::StreamExt;
use mainstem_catalog::Catalog;
use mainstem_engine::batch::{ReadPoint, plan_query, relations_of, session_context};
use mainstem_engine::tables::{Dml, DmlPlan};
use mainstem_sql::plan::{column_names, distinct_names};
use mainstem_sql::{SqlError, Statement};

use crate::parameters::{Parameter, bound};
use crate::session::{Response, RowStream, Session, Tag};
use crate::system;

/// A planned query and the context it runs in.
pub(crate) struct Planned {
    pub(crate) context: SessionContext,
    pub(crate) plan: LogicalPlan,
    /// The columns under PostgreSQL's names.
    pub(crate) schema: SchemaRef,
}

impl Session {
    pub(crate) async fn query(&mut self, query: &Query, parameters: &[Parameter]) -> Result<Response, SqlError> {
        let (schema, stream) = self.run_query(query, parameters).await?;
        Ok(Response::Rows { schema, stream, tag: Tag::Counted("SELECT") })
    }

    /// Runs a query at what the session reads now.
    pub(crate) async fn run_query(
        &mut self,
        query: &Query,
        parameters: &[Parameter],
    ) -> Result<(SchemaRef, RowStream), SqlError> {
        // A query without parameters may still name one, which is then an error.
        let query = bound(query, parameters)?;
        let mut attempts = Attempts::default();
        let Planned { context, plan, schema } = loop {
            let catalog = self.shared.catalogs.current();
            let acknowledged = self.shared.acknowledged();
            let writes = self.transaction.as_mut().map(|open| &mut open.writes);
            let at = self.shared.tables.read_point(writes, acknowledged).await?;
            let planned = Box::pin(self.planned_at(&query, &at)).await;
            match planned {
                Err(error) if attempts.may_go_on(self, &catalog, &error) => {}
                planned => break planned?,
            }
        };
        let announced = schema.clone();
        let start = async move {
            let stream = context.execute_logical_plan(plan).await?.execute_stream().await?;
            let named = announced.clone();
            let renamed = stream.map(move |batch| {
                let batch = batch?;
                let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                Ok(RecordBatch::try_new_with_options(under(&named, &batch), batch.columns().to_vec(), &rows)?)
            });
            Ok(Box::pin(RecordBatchStreamAdapter::new(announced, renamed)) as SendableRecordBatchStream)
        };
        let stream = RowStream::running(self.shared.queries.handle(), start).await?;
        Ok((schema, stream))
    }

    /// Plans a query, not to be run, or to be run over nothing that changes.
    pub(crate) async fn planned(&self, query: &Query) -> Result<Planned, SqlError> {
        let at = ReadPoint { at_least: self.shared.acknowledged(), transaction: None };
        Box::pin(self.planned_at(query, &at)).await
    }

    async fn planned_at(&self, query: &Query, at: &ReadPoint) -> Result<Planned, SqlError> {
        let catalog = self.shared.catalogs.current();
        let mut query = query.clone();
        let names = query.clone();
        let mut options = self.shared.options.clone();
        options.database.clone_from(&self.database);
        let is_system = system::is_system_query(&query, &catalog);
        if is_system {
            system::rewrite(&mut query, &catalog)?;
        }
        distinct_names(&mut query);
        let relations = relations_of(&catalog, &query);
        let context = session_context(&self.shared.engine, &catalog, &relations, at, &options).await?;
        if is_system {
            let database = context.catalog(&self.database).expect("the context's database");
            for (name, schema) in system::schemas(self, &catalog) {
                database.register_schema(&name, schema)?;
            }
            system::register_functions(&context, self, &catalog);
        }
        let plan = plan_query(&context, query).await?;
        let planned: Vec<String> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        let fields: Vec<Field> = plan
            .schema()
            .fields()
            .iter()
            .zip(column_names(&names, &planned))
            .map(|(field, name)| field.as_ref().clone().with_name(name).with_nullable(true))
            .collect();
        Ok(Planned { context, plan, schema: Arc::new(Schema::new(fields)) })
    }

    /// The statement for the tables, and what it may read.
    pub(crate) fn write_plan(&self, statement: &Statement, parameters: &[Parameter]) -> Result<DmlPlan, SqlError> {
        let dml = match statement {
            Statement::Insert(insert) => Dml::Insert(insert.clone()),
            Statement::Update(update) => Dml::Update(update.clone()),
            Statement::Delete(delete) => Dml::Delete(delete.clone()),
            _ => return Err(SqlError::new("XX000", "not a statement that writes")),
        };
        let mut plan = DmlPlan::new(self.shared.catalogs.current(), dml);
        plan.parameters = parameters.iter().map(Parameter::scalar).collect::<Result<_, _>>()?;
        plan.at_least = self.shared.acknowledged();
        Ok(plan)
    }

    pub(crate) fn check_writable(&self, statement: &str) -> Result<(), SqlError> {
        if self.transaction.as_ref().is_some_and(|open| open.is_read_only) {
            let message = format!("cannot execute {statement} in a read-only transaction");
            return Err(SqlError::new("25006", message));
        }
        Ok(())
    }

    pub(crate) async fn write(
        &mut self,
        statement: &Statement,
        parameters: &[Parameter],
    ) -> Result<Response, SqlError> {
        let verb = match statement {
            Statement::Insert(_) => "INSERT",
            Statement::Update(_) => "UPDATE",
            _ => "DELETE",
        };
        self.check_writable(verb)?;
        let mut attempts = Attempts::default();
        let result = loop {
            let plan = self.write_plan(statement, parameters)?;
            let catalog = plan.catalog.clone();
            let writes = self.transaction.as_mut().map(|open| &mut open.writes);
            let result = Box::pin(self.shared.tables.execute(writes, plan)).await;
            match result {
                Err(error) if attempts.may_go_on(self, &catalog, &error) => {}
                result => break result?,
            }
        };
        self.acknowledge(result.cut);
        let tag = match verb {
            "INSERT" => format!("INSERT 0 {}", result.rows_affected),
            _ => format!("{verb} {}", result.rows_affected),
        };
        match result.returning {
            None => Ok(Response::done(tag)),
            Some(batches) => {
                let schema = match batches.first() {
                    Some(batch) => batch.schema(),
                    None => self.returning_schema(statement).await?,
                };
                Ok(Response::rows(&schema, batches, Tag::Fixed(tag)))
            }
        }
    }

    async fn returning_schema(&self, statement: &Statement) -> Result<SchemaRef, SqlError> {
        let described = self.shared.tables.describe(&self.write_plan(statement, &[])?).await?;
        Ok(described.returning.unwrap_or_else(|| Arc::new(Schema::empty())))
    }
}

/// A statement that met an id whose relation had just been replaced is planned again, by the name.
#[derive(Debug, Default)]
struct Attempts(usize);

impl Attempts {
    const MAX: usize = 10;

    fn may_go_on(&mut self, session: &Session, planned_over: &Catalog, error: &SqlError) -> bool {
        self.0 += 1;
        error.sqlstate == "42P01"
            && self.0 < Attempts::MAX
            && session.shared.catalogs.current().version() != planned_over.version()
    }
}

/// The announced names with the types that came.
fn under(announced: &SchemaRef, batch: &RecordBatch) -> SchemaRef {
    let types_match = announced.fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type());
    if types_match {
        return announced.clone();
    }
    let retyped = announced.fields().iter().zip(batch.columns());
    let fields: Vec<Field> =
        retyped.map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone())).collect();
    Arc::new(Schema::new(fields))
}
