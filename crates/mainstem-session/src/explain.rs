//! EXPLAIN: the batch plan of a query, the operator graph of a materialized view.

use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use mainstem_engine::batch::query_error;
use mainstem_sql::statement::Explain;
use mainstem_sql::{SqlError, Statement, plan_view};

use crate::parameters::{Parameter, bound};
use crate::session::{Response, Session};
use crate::show::{text_rows, text_schema};

const COLUMN: &str = "QUERY PLAN";

/// The one column of EXPLAIN.
pub(crate) fn schema() -> SchemaRef {
    text_schema(&[COLUMN])
}

impl Session {
    pub(crate) async fn explain(&mut self, explain: &Explain, parameters: &[Parameter]) -> Result<Response, SqlError> {
        let lines = match explain.statement.as_ref() {
            Statement::CreateMaterializedView(create) => {
                let catalog = self.shared.catalogs.current();
                let plan = plan_view(&catalog, &create.query, &create.columns, create.emit())?;
                plan.graph.explain(&|id| catalog.relation(id).map_or_else(|| id.0.to_string(), |r| r.name.clone()))
            }
            Statement::Query(query) => {
                let query = bound(query, parameters)?;
                let planned = Box::pin(self.planned(&query)).await?;
                let mut lines = Vec::new();
                let state = planned.context.state();
                let optimized = state.optimize(&planned.plan).map_err(query_error)?;
                if explain.verbose {
                    lines.extend(optimized.display_indent().to_string().lines().map(str::to_owned));
                }
                let physical = state.create_physical_plan(&planned.plan).await.map_err(query_error)?;
                let text = if explain.analyze {
                    let task = planned.context.task_ctx();
                    let rows = datafusion::physical_plan::collect(physical.clone(), task).await.map_err(query_error)?;
                    let count: usize = rows.iter().map(arrow::array::RecordBatch::num_rows).sum();
                    lines.push(format!("rows: {count}"));
                    DisplayableExecutionPlan::with_metrics(physical.as_ref()).indent(explain.verbose).to_string()
                } else {
                    DisplayableExecutionPlan::new(physical.as_ref()).indent(explain.verbose).to_string()
                };
                lines.extend(text.lines().map(str::to_owned));
                lines
            }
            Statement::Insert(insert) => vec![format!("Insert on {}", insert.table)],
            Statement::Update(update) => vec![format!("Update on {}", update.table)],
            Statement::Delete(delete) => vec![format!("Delete on {}", delete.table)],
            _ => return Err(SqlError::not_supported("EXPLAIN of this statement is not supported")),
        };
        let rows: Vec<Vec<String>> = lines.into_iter().map(|line| vec![line]).collect();
        Ok(text_rows(&[COLUMN], &rows, "EXPLAIN"))
    }
}
