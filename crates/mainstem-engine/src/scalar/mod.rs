//! Scalar expressions of a graph, compiled to DataFusion's physical expressions and evaluated over batches.
//!
//! Errors are data: a batch that fails to evaluate is halved until the failing rows are found; they are reported with
//! DataFusion's message, the others go on. A batch may fail where each row alone does not (`x <> 0 AND 10 / x > 1` looks at
//! the right side of all rows); a row fails only when it fails alone, so that its fate depends on nothing else.
//!
//! Always true here: nothing reads a clock (execution properties carry no start time); the columns of a batch are found by
//! place, never by name.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use mainstem_sql::{Scalar, SqlError};

use crate::delta::Delta;
use crate::error::EngineError;

/// Failures of rows: message -> sum of the weights of the rows that failed with it. Zero sums are taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowErrors {
    messages: BTreeMap<String, i64>,
}

impl RowErrors {
    /// A row of this weight failed.
    pub fn add(&mut self, message: String, weight: i64) {
        let sum = self.messages.get(&message).copied().unwrap_or(0) + weight;
        if sum == 0 {
            self.messages.remove(&message);
        } else {
            self.messages.insert(message, sum);
        }
    }

    /// What was collected, by message.
    pub fn take(&mut self) -> Vec<(String, i64)> {
        std::mem::take(&mut self.messages).into_iter().collect()
    }
}

/// An expression over batches of one schema.
#[derive(Clone, Debug)]
pub struct CompiledScalar {
    expression: Arc<dyn PhysicalExpr>,
    result: DataType,
}

fn column_name(index: usize) -> String {
    format!("c{index}")
}

/// What compiling needs to know of the graph's settings.
#[derive(Debug)]
pub struct Compiler {
    properties: ExecutionProps,
}

impl Compiler {
    /// With the settings that the graph was planned under.
    pub fn new(settings: &BTreeMap<String, String>) -> Result<Compiler, EngineError> {
        let mut options = ConfigOptions::new();
        for (name, value) in settings {
            // Settings of sessions go by their PostgreSQL names, DataFusion's own by theirs.
            let option = if name == "time_zone" { "datafusion.execution.time_zone" } else { name };
            options
                .set(option, value)
                .map_err(|error| EngineError::Graph(format!("setting {name}: {}", describe(&error))))?;
        }
        let mut properties = ExecutionProps::new();
        properties.config_options = Some(Arc::new(options));
        Ok(Compiler { properties })
    }

    /// Compiles an expression over `input`.
    pub fn compile(&self, scalar: &Scalar, input: &SchemaRef) -> Result<CompiledScalar, EngineError> {
        let schema = CompiledScalar::input_schema(input).as_ref().clone();
        let failed = |error: DataFusionError| EngineError::Graph(describe(&error));
        let named = DFSchema::try_from(schema.clone()).map_err(failed)?;
        let expression = scalar
            .to_expr(&|index| Column::new_unqualified(column_name(index)))
            .map_err(|error| EngineError::Graph(error.message))?;
        let expression = create_physical_expr(&expression, &named, &self.properties).map_err(failed)?;
        let result = expression.data_type(&schema).map_err(failed)?;
        Ok(CompiledScalar { expression, result })
    }

    /// Compiles several.
    pub fn compile_all<'a>(
        &self,
        scalars: impl IntoIterator<Item = &'a Scalar>,
        input: &SchemaRef,
    ) -> Result<Vec<CompiledScalar>, EngineError> {
        scalars.into_iter().map(|scalar| self.compile(scalar, input)).collect()
    }
}

impl CompiledScalar {
    /// Compiles under the default settings.
    pub fn compile(scalar: &Scalar, input: &SchemaRef) -> Result<CompiledScalar, EngineError> {
        Compiler::new(&BTreeMap::new())?.compile(scalar, input)
    }

    /// The schema under which expressions over `input` are compiled. Names in a join's output may repeat; here the columns
    /// have names of their own.
    pub(crate) fn input_schema(input: &SchemaRef) -> SchemaRef {
        let fields = input.fields().iter().enumerate();
        let fields = fields.map(|(index, field)| field.as_ref().clone().with_name(column_name(index)));
        Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
    }

    /// For operators that hand it to DataFusion; over batches of [`CompiledScalar::input_schema`].
    pub(crate) fn physical(&self) -> Arc<dyn PhysicalExpr> {
        self.expression.clone()
    }

    /// The type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.result
    }

    /// One value per row, or the error of some row.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        // A function that panics is a fault of the function on some input, and must not stop the other views.
        let evaluate = || self.expression.evaluate(rows)?.into_array(rows.num_rows());
        catch_unwind(AssertUnwindSafe(evaluate)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(DataFusionError::Execution(format!("expression failed: {}", text.unwrap_or("panic"))))
        })
    }

    /// Values for the rows that do not fail, in order, and the failing rows with their messages, in order.
    pub fn evaluate_rows(&self, rows: &RecordBatch) -> (ArrayRef, Vec<(usize, String)>) {
        let mut good = Vec::new();
        let mut failed = Vec::new();
        self.evaluate_part(rows, 0, rows.num_rows(), &mut good, &mut failed);
        let values = match good.len() {
            0 => arrow::array::new_empty_array(&self.result),
            1 => good.remove(0),
            _ => {
                let parts: Vec<&dyn Array> = good.iter().map(AsRef::as_ref).collect();
                concat(&parts).expect("values of one expression have one type")
            }
        };
        (values, failed)
    }

    fn evaluate_part(
        &self,
        rows: &RecordBatch,
        start: usize,
        length: usize,
        good: &mut Vec<ArrayRef>,
        failed: &mut Vec<(usize, String)>,
    ) {
        if length == 0 {
            return;
        }
        match self.evaluate(&rows.slice(start, length)) {
            Ok(values) => good.push(values),
            Err(error) if length == 1 => failed.push((start, describe(&error))),
            Err(_) => {
                let half = length / 2;
                self.evaluate_part(rows, start, half, good, failed);
                self.evaluate_part(rows, start + half, length - half, good, failed);
            }
        }
    }
}

/// Evaluates all expressions over the delta. Rows for which one fails are taken out and reported with their weight, once,
/// with the message of the first expression that fails. Gives the rows that are left and the values for them.
pub fn evaluate_all(scalars: &[CompiledScalar], delta: &Delta, errors: &mut RowErrors) -> (Delta, Vec<ArrayRef>) {
    let whole: Result<Vec<ArrayRef>, _> = scalars.iter().map(|scalar| scalar.evaluate(&delta.rows)).collect();
    if let Ok(values) = whole {
        return (delta.clone(), values);
    }
    let mut left = delta.clone();
    for scalar in scalars {
        let (_, failed) = scalar.evaluate_rows(&left.rows);
        if failed.is_empty() {
            continue;
        }
        let mut kept = vec![true; left.len()];
        for (row, message) in failed {
            errors.add(message, left.weights[row]);
            kept[row] = false;
        }
        left = left.filter(&BooleanArray::from(kept));
    }
    let values = scalars.iter().map(|scalar| scalar.evaluate_rows(&left.rows).0).collect();
    (left, values)
}

/// True where the predicate is true; failing rows are reported, and false.
pub fn mask(predicate: &CompiledScalar, delta: &Delta, errors: &mut RowErrors) -> BooleanArray {
    if let Ok(values) = predicate.evaluate(&delta.rows) {
        return boolean(&values);
    }
    let (values, failed) = predicate.evaluate_rows(&delta.rows);
    let (values, mut good, mut failed) = (boolean(&values), 0, failed.into_iter().peekable());
    let rows = (0..delta.len()).map(|row| match failed.next_if(|(place, _)| *place == row) {
        Some((_, message)) => {
            errors.add(message, delta.weights[row]);
            Some(false)
        }
        None => {
            good += 1;
            values.is_valid(good - 1).then(|| values.value(good - 1))
        }
    });
    rows.collect()
}

/// The rows for which the predicate is true; failing rows are reported.
pub fn filter(predicate: &CompiledScalar, delta: &Delta, errors: &mut RowErrors) -> Delta {
    delta.filter(&mask(predicate, delta, errors))
}

/// The values as booleans; an untyped null is null.
pub(crate) fn boolean(values: &ArrayRef) -> BooleanArray {
    match values.data_type() {
        DataType::Boolean => values.as_boolean().clone(),
        _ => cast(values, &DataType::Boolean).expect("a predicate is boolean or null").as_boolean().clone(),
    }
}

/// The message of an error without its wrappers: the same text wherever it happens.
pub(crate) fn describe(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(arrow, _) => arrow.to_string(),
        DataFusionError::Execution(message) => message.clone(),
        DataFusionError::External(cause) if cause.is::<SqlError>() => cause.to_string(),
        other => other.strip_backtrace(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Int64Type;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator;
    use mainstem_sql::Literal;

    use super::*;

    fn literal(value: i64) -> Box<Scalar> {
        Box::new(Scalar::Literal(Literal::from_value(&ScalarValue::Int64(Some(value))).unwrap()))
    }

    fn binary(left: Box<Scalar>, op: Operator, right: Box<Scalar>) -> Box<Scalar> {
        Box::new(Scalar::Binary { op, left, right })
    }

    fn delta() -> Delta {
        let schema = Schema::new(vec![Field::new("x", DataType::Int64, true)]);
        let values = Int64Array::from(vec![Some(5), Some(0), None, Some(10), Some(0)]);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(values)]).unwrap();
        Delta::new(rows, vec![1, 2, 1, -1, -3])
    }

    #[test]
    fn rows_that_fail_are_reported_and_the_others_go_on() {
        let delta = delta();
        let divide = binary(literal(100), Operator::Divide, Box::new(Scalar::Column(0)));
        let compiled = CompiledScalar::compile(&divide, &delta.schema()).unwrap();
        let mut errors = RowErrors::default();
        let (left, values) = evaluate_all(&[compiled], &delta, &mut errors);
        assert_eq!(left.weights.as_ref(), &[1, 1, -1]);
        assert_eq!(values[0].as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(20), None, Some(10)]));
        assert_eq!(errors.take(), vec![("Divide by zero error".to_owned(), -1)]);
    }

    #[test]
    fn a_row_that_does_not_fail_alone_does_not_fail_in_a_batch() {
        let delta = delta();
        let nonzero = binary(Box::new(Scalar::Column(0)), Operator::NotEq, literal(0));
        let divide = binary(literal(100), Operator::Divide, Box::new(Scalar::Column(0)));
        let guarded = Scalar::And(vec![*nonzero, *binary(divide, Operator::Gt, literal(15))]);
        let compiled = CompiledScalar::compile(&guarded, &delta.schema()).unwrap();
        let mut errors = RowErrors::default();
        let left = filter(&compiled, &delta, &mut errors);
        assert_eq!(left.weights.as_ref(), &[1]);
        assert!(errors.take().is_empty());
    }

    #[test]
    fn a_failed_row_and_its_retraction_cancel_out() {
        let delta = delta();
        let divide = binary(literal(1), Operator::Modulo, Box::new(Scalar::Column(0)));
        let compiled = CompiledScalar::compile(&divide, &delta.schema()).unwrap();
        let mut errors = RowErrors::default();
        evaluate_all(std::slice::from_ref(&compiled), &delta, &mut errors);
        evaluate_all(std::slice::from_ref(&compiled), &delta.negate(), &mut errors);
        assert!(errors.take().is_empty());
    }
}
