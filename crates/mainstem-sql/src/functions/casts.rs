//! Casts that PostgreSQL and DataFusion do differently: text to and from values goes by PostgreSQL's text form, fractions are
//! rounded to integers and not cut.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::integers::is_integer;
use crate::arrow_types::{arrow_type, sql_type_of};
use crate::graph::parse_type;
use crate::text::{column_from_text, write_text};

/// `pg_cast(value, 'Arrow type')`
pub(crate) const PG_CAST: &str = "pg_cast";

const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

/// Whether [`PG_CAST`] does this cast, and not DataFusion.
pub(crate) fn is_postgres_cast(from: &DataType, to: &DataType) -> bool {
    match (is_text(from), is_text(to)) {
        (true, true) => false,
        (true, false) => has_text_form(to) && !matches!(to, DataType::Boolean),
        (false, true) => has_text_form(from) && !matches!(from, DataType::Boolean) && !is_integer(from),
        (false, false) => is_integer(to) && (from.is_floating() || from.is_decimal()),
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Types that exist in SQL as they are.
fn has_text_form(data_type: &DataType) -> bool {
    let sql_type = sql_type_of(data_type);
    arrow_type(&sql_type) == *data_type && !matches!(data_type, DataType::Struct(_))
}

pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let signature = Signature::any(2, Volatility::Immutable);
    vec![Arc::new(ScalarUDF::new_from_impl(PgCast { signature }))]
}

/// The cast as an expression.
pub(crate) fn postgres_cast(of: Expr, to: &DataType) -> Option<Expr> {
    let function = super::scalar_function(PG_CAST)?;
    Some(function.call(vec![of, Expr::Literal(ScalarValue::from(to.to_string()), None)]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PgCast {
    signature: Signature,
}

impl ScalarUDFImpl for PgCast {
    fn name(&self) -> &str {
        PG_CAST
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type depends on the second argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let ([of, _], [_, Some(ScalarValue::Utf8(Some(to)))]) = (args.arg_fields, args.scalar_arguments) else {
            return plan_err!("{PG_CAST} takes a value and the name of a type");
        };
        Ok(Arc::new(Field::new(PG_CAST, parse_type(to)?, of.is_nullable())))
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(match args {
            [of, Expr::Literal(ScalarValue::Utf8(Some(to)), _)] => format!("CAST({of} AS {to})"),
            _ => PG_CAST.to_owned(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(of) = args.args.first() else { return plan_err!("{PG_CAST} takes a value") };
        let to = args.return_field.data_type();
        match of {
            ColumnarValue::Scalar(scalar) => {
                let array = convert(&scalar.to_array()?, to)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(convert(array, to)?)),
        }
    }
}

/// Values as another type.
pub(super) fn convert(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let from = array.data_type();
    if is_text(from) && has_text_form(to) {
        let texts = cast_with_options(array, &DataType::Utf8, &STRICT)?;
        let texts: Vec<Option<&str>> = texts.as_string::<i32>().iter().collect();
        return Ok(column_from_text(&texts, &sql_type_of(to), "")?);
    }
    if is_text(to) {
        let sql_type = sql_type_of(from);
        let texts: StringArray =
            (0..array.len()).map(|row| write_text(array, row, &sql_type)).collect::<std::result::Result<_, _>>()?;
        return Ok(cast_with_options(&texts, to, &STRICT)?);
    }
    let rounded = if from.is_floating() {
        let floats = cast_with_options(array, &DataType::Float64, &STRICT)?;
        let rounded: Float64Array = floats.as_primitive::<Float64Type>().unary(f64::round_ties_even);
        Arc::new(rounded)
    } else {
        // Arrow rounds decimals to a smaller scale half away from zero, as PostgreSQL does.
        let precision = match from {
            DataType::Decimal256(..) => DataType::Decimal256(76, 0),
            _ => DataType::Decimal128(38, 0),
        };
        cast_with_options(array, &precision, &STRICT)?
    };
    cast_with_options(&rounded, to, &STRICT)
        .map_err(|_| crate::error::SqlError::new("22003", format!("{} out of range", sql_type_of(to))).into())
}
