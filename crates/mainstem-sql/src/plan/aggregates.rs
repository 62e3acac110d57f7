//! GROUP BY: DataFusion's aggregates as those that have an incremental form.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{AggregateFunction as PlannedFunction, Cast};
use datafusion::logical_expr::{Aggregate as PlannedAggregate, Expr};

use super::convert::{Convert, fields, not_yet};
use super::window_close::Lineage;
use crate::error::{SqlError, sqlstate};
use crate::graph::{Aggregate, AggregateFunction, GraphField, Operator, OperatorId, Scalar};

impl Convert {
    pub(super) fn aggregate(&mut self, planned: &PlannedAggregate) -> Result<OperatorId, SqlError> {
        if planned.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Err(not_yet("GROUPING SETS, ROLLUP or CUBE"));
        }
        let input = self.plan(&planned.input)?;
        let over = planned.input.schema();
        let group =
            planned.group_expr.iter().map(|expr| Scalar::from_expr(expr, over)).collect::<Result<Vec<_>, _>>()?;
        let schema = fields(&planned.schema)?;
        let results = schema.get(group.len()..).unwrap_or_default();
        let aggregates = planned
            .aggr_expr
            .iter()
            .zip(results)
            .map(|(expr, field)| convert(expr, over, field))
            .collect::<Result<Vec<_>, _>>()?;
        self.push_aggregate(group, aggregates, schema, input)
    }

    /// The aggregate, and above it what holds back open windows.
    fn push_aggregate(
        &mut self,
        group: Vec<Scalar>,
        aggregates: Vec<Aggregate>,
        schema: Vec<GraphField>,
        input: OperatorId,
    ) -> Result<OperatorId, SqlError> {
        if self.emit_on_window_close && self.is_open[input.0 as usize] {
            if let Some(id) = self.closing_aggregate(&group, &aggregates, &schema, input)? {
                return Ok(id);
            }
        }
        let lineage = vec![Lineage::Other; schema.len()];
        Ok(self.push(Operator::Aggregate { group, aggregates }, vec![input], schema, false, lineage))
    }
}

fn convert(expr: &Expr, over: &datafusion::common::DFSchema, field: &GraphField) -> Result<Aggregate, SqlError> {
    let Expr::AggregateFunction(PlannedFunction { func, params }) = expr.clone().unalias_nested().data else {
        return Err(not_yet(&expr.to_string()));
    };
    if params.null_treatment.is_some() {
        return Err(not_yet("IGNORE NULLS or RESPECT NULLS"));
    }
    let mut arguments = params.args;
    let function = match func.name() {
        "count" => {
            // count(*) comes as the count of a constant.
            if !params.distinct {
                arguments.retain(|argument| !matches!(argument, Expr::Literal(value, _) if !value.is_null()));
            }
            AggregateFunction::Count
        }
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "median" => AggregateFunction::Median,
        "bool_and" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        "bit_and" => AggregateFunction::BitAnd,
        "bit_or" => AggregateFunction::BitOr,
        "bit_xor" => AggregateFunction::BitXor,
        "percentile_cont" => {
            let descending = params.order_by.first().is_some_and(|key| !key.asc);
            let fraction = fraction(arguments.get(1))?;
            arguments.truncate(1);
            let fraction = if descending { 1.0 - fraction } else { fraction };
            AggregateFunction::PercentileCont { fraction_bits: fraction.to_bits() }
        }
        other => return Err(not_yet(&format!("aggregate function {other}()"))),
    };
    // Of equal values one is as good as all.
    let is_plain = matches!(
        function,
        AggregateFunction::Min
            | AggregateFunction::Max
            | AggregateFunction::BoolAnd
            | AggregateFunction::BoolOr
            | AggregateFunction::BitAnd
            | AggregateFunction::BitOr
    );
    if params.distinct && arguments.len() > 1 {
        return Err(not_yet(&format!("{}(DISTINCT) of several columns", func.name())));
    }
    Ok(Aggregate {
        function,
        arguments: arguments.iter().map(|argument| Scalar::from_expr(argument, over)).collect::<Result<_, _>>()?,
        distinct: params.distinct && !is_plain,
        filter: params.filter.as_deref().map(|filter| Scalar::from_expr(filter, over)).transpose()?,
        result: field.data_type.clone(),
    })
}

fn fraction(argument: Option<&Expr>) -> Result<f64, SqlError> {
    let mut argument = argument;
    while let Some(Expr::Cast(Cast { expr, .. })) = argument {
        argument = Some(expr);
    }
    let value = match argument {
        Some(Expr::Literal(value, _)) => value.cast_to(&arrow::datatypes::DataType::Float64).ok(),
        _ => None,
    };
    match value {
        Some(ScalarValue::Float64(Some(fraction))) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err(SqlError::new(
            sqlstate::INVALID_PARAMETER,
            "the fraction of percentile_cont() must be a constant between 0 and 1",
        )),
    }
}
