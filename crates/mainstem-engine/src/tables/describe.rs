//! What a statement takes and gives, without running it: for PARSE and DESCRIBE of the extended protocol.

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr, SetExpr, Value};
use mainstem_sql::arrow_types::arrow_type;
use mainstem_sql::statement::Insert;

use super::statement::{Scope, Target, returning_query};
use super::{Dml, DmlError, DmlPlan, Tables};
use crate::batch::{ReadPoint, context_with, plan_text, query_error, register};
use crate::tables::update::{all_columns, matching};

/// Types of a statement.
#[derive(Clone, Debug, Default)]
pub struct DmlDescription {
    /// Type of `$n` by n, where it follows from the statement; text fits everywhere else.
    pub parameters: BTreeMap<usize, DataType>,
    /// The columns of RETURNING.
    pub returning: Option<SchemaRef>,
}

impl Tables {
    /// Describes a statement; its parameters need no values yet.
    pub async fn describe(&self, plan: &DmlPlan) -> Result<DmlDescription, DmlError> {
        let target = Target::of(&plan.catalog, plan.statement.table())?;
        let at = ReadPoint { at_least: plan.at_least, transaction: None };
        let (_, version) = super::sequencer::pin_table(&self.engine, &target.relation).await?;
        let image = super::Image { version, overlay: Default::default() };
        let scope = Scope { tables: self, plan, target: &target, image: &image, at: &at };
        let mut described = DmlDescription::default();
        match &plan.statement {
            Dml::Insert(insert) => describe_insert(&scope, insert, &mut described).await?,
            Dml::Update(update) => {
                let alias = update.alias.as_deref().unwrap_or(&target.relation.name);
                for assignment in &update.assignments {
                    let column = target.column(&assignment.column)?;
                    note_placeholder(&scope, column, &assignment.value, &mut described);
                }
                let mut items = all_columns(&scope, alias);
                let computed = update.assignments.iter().filter(|it| !Scope::is_default(&it.value));
                let computed = computed.filter(|it| placeholder(&it.value).is_none());
                items.extend(computed.enumerate().map(|(place, it)| format!("{} AS \"__new_{place}\"", it.value)));
                let query = matching(alias, &target.relation.name, &items, &update.from, update.filter.as_ref());
                let mut mentioned = scope.mentioned(&update.from);
                mentioned.extend(scope.mentioned(&update.filter));
                update.assignments.iter().for_each(|it| mentioned.extend(scope.mentioned(&it.value)));
                let context = scope.context(&mentioned, vec![scope.target_rows()]).await?;
                infer(&plan_text(&context, &query).await?, &mut described)?;
            }
            Dml::Delete(delete) => {
                let alias = delete.alias.as_deref().unwrap_or(&target.relation.name);
                let items = all_columns(&scope, alias);
                let query = matching(alias, &target.relation.name, &items, &delete.using, delete.filter.as_ref());
                let mut mentioned = scope.mentioned(&delete.using);
                mentioned.extend(scope.mentioned(&delete.filter));
                let context = scope.context(&mentioned, vec![scope.target_rows()]).await?;
                infer(&plan_text(&context, &query).await?, &mut described)?;
            }
            Dml::Copy { .. } => {}
        }
        described.returning = self.returning_schema(plan, &target).await?;
        Ok(described)
    }

    async fn returning_schema(&self, plan: &DmlPlan, target: &Target) -> Result<Option<SchemaRef>, DmlError> {
        let Some((items, alias)) = plan.statement.returning() else { return Ok(None) };
        let at = ReadPoint::default();
        let context = context_with(&self.engine, &plan.catalog, &[], &at, &self.options, HashMap::new()).await?;
        let shown = crate::batch::visible_columns(&target.relation);
        let schema = target.schema.project(&shown).map_err(|error| query_error(error.into()))?;
        let (name, rows) = Scope::rows(&target.relation.name, arrow::array::RecordBatch::new_empty(schema.into()))?;
        register(&context, crate::batch::TARGET_SCHEMA, &name, rows);
        let planned = plan_text(&context, &returning_query(target, items, alias)).await?;
        Ok(Some(planned.schema().inner().clone()))
    }
}

async fn describe_insert(scope: &Scope<'_>, insert: &Insert, described: &mut DmlDescription) -> Result<(), DmlError> {
    let columns = super::insert::columns_of(scope, insert)?;
    let Some(query) = &insert.source else { return Ok(()) };
    if let SetExpr::Values(values) = query.body.as_ref() {
        for row in &values.rows {
            for (column, value) in columns.iter().zip(row.iter()) {
                note_placeholder(scope, *column, value, described);
            }
        }
        return Ok(());
    }
    let context = scope.context(&scope.mentioned(query.as_ref()), Vec::new()).await?;
    infer(&plan_text(&context, &query.to_string()).await?, described)
}

fn placeholder(value: &Expr) -> Option<usize> {
    let Expr::Value(value) = value else { return None };
    let Value::Placeholder(name) = &value.value else { return None };
    name.strip_prefix('$')?.parse().ok()
}

/// A parameter that is assigned to a column has its type.
fn note_placeholder(scope: &Scope<'_>, column: usize, value: &Expr, described: &mut DmlDescription) {
    if let Some(number) = placeholder(value) {
        let of_column = arrow_type(&scope.target.relation.columns[column].sql_type);
        described.parameters.entry(number).or_insert(of_column);
    }
}

fn infer(plan: &LogicalPlan, described: &mut DmlDescription) -> Result<(), DmlError> {
    for (name, data_type) in plan.get_parameter_types().map_err(query_error)? {
        let number = name.strip_prefix('$').and_then(|number| number.parse().ok());
        if let (Some(number), Some(data_type)) = (number, data_type) {
            described.parameters.entry(number).or_insert(data_type);
        }
    }
    Ok(())
}
