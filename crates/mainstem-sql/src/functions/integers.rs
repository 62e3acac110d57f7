//! `+`, `-` and `*` of integers, which fail where the result is out of range: DataFusion's own operators wrap.

use std::sync::Arc;

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::SqlError;

/// Each with the operator that it stands for; the last is the sign.
const NAMES: [(&str, Operator); 4] = [
    ("int_plus", Operator::Plus),
    ("int_minus", Operator::Minus),
    ("int_times", Operator::Multiply),
    (NEGATE, Operator::Minus),
];
const NEGATE: &str = "int_negate";

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntegerFunction {
    name: &'static str,
    operator: Operator,
    signature: Signature,
}

pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let function = |(name, operator): (&'static str, Operator)| {
        let signature = Signature::any(if name == NEGATE { 1 } else { 2 }, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(IntegerFunction { name, operator, signature }))
    };
    NAMES.into_iter().map(function).collect()
}

/// The function that stands for an operator of two integers.
pub(crate) fn integer_function(operator: Operator) -> Option<&'static str> {
    NAMES.into_iter().find(|(name, known)| *known == operator && *name != NEGATE).map(|(name, _)| name)
}

/// The function that stands for the sign before an integer.
pub(crate) fn integer_negate() -> &'static str {
    NEGATE
}

/// The operator that a function stands for.
pub(crate) fn integer_operator(name: &str) -> Option<Operator> {
    NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, operator)| operator)
}

/// Signed integers, as SQL has them.
pub(crate) fn is_integer(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int16 | DataType::Int32 | DataType::Int64)
}

impl ScalarUDFImpl for IntegerFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [one] if is_integer(one) => Ok(one.clone()),
            [left, right] if left == right && is_integer(left) => Ok(left.clone()),
            _ => plan_err!("{} takes integers of one type", self.name),
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(match args {
            [left, right] => format!("{left} {} {right}", self.operator),
            [of] => format!("(- {of})"),
            _ => self.name.to_owned(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let result = match args.args.as_slice() {
            [of] => numeric::neg(&of.to_array(args.number_rows)?),
            [left, right] => {
                let (left, right) = (datum(left)?, datum(right)?);
                let (left, right) = (left.as_ref(), right.as_ref());
                match self.operator {
                    Operator::Plus => numeric::add(left, right),
                    Operator::Minus => numeric::sub(left, right),
                    _ => numeric::mul(left, right),
                }
            }
            _ => return plan_err!("wrong number of arguments of {}", self.name),
        };
        let result = result.map_err(|error| out_of_range(&error, args.return_type()))?;
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        Ok(if is_scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }
}

fn datum(value: &ColumnarValue) -> Result<Box<dyn Datum>> {
    Ok(match value {
        ColumnarValue::Array(array) => Box::new(ArrayRef::clone(array)),
        ColumnarValue::Scalar(scalar) => Box::new(scalar.to_scalar()?),
    })
}

fn out_of_range(error: &ArrowError, data_type: &DataType) -> SqlError {
    match error {
        ArrowError::ArithmeticOverflow(_) => {
            let name = match data_type {
                DataType::Int16 => "smallint",
                DataType::Int32 => "integer",
                _ => "bigint",
            };
            SqlError::new("22003", format!("{name} out of range"))
        }
        other => SqlError::new("22000", other.to_string()),
    }
}
