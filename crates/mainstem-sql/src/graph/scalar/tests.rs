//! Expressions through their stored form and back give the same values.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::{ColumnarValue, Expr};
use datafusion::physical_expr::create_physical_expr;

use super::*;

fn batch() -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
    ]);
    let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(-7), Some(40)]));
    let f: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN), None, Some(-0.0)]));
    let s: ArrayRef = Arc::new(StringArray::from(vec![Some("abc"), Some("x_y%"), None, Some("")]));
    RecordBatch::try_new(Arc::new(schema), vec![a, f, s]).expect("fits")
}

fn evaluate(expr: &Expr, batch: &RecordBatch, schema: &DFSchema) -> ArrayRef {
    let physical = create_physical_expr(expr, schema, &ExecutionProps::new()).expect("physical expression");
    physical.evaluate(batch).and_then(|value: ColumnarValue| value.into_array(batch.num_rows())).expect("evaluates")
}

fn expressions() -> Vec<&'static str> {
    vec![
        "a + 1",
        "a * 2 - a / 3 % 4",
        "f / 3.0e0",
        "-a",
        "a = 1 OR a = 40 OR f > 0 OR s IS NULL",
        "a > 0 AND f IS NOT NULL AND s <> ''",
        "NOT (a > 0)",
        "a BETWEEN -7 AND 1",
        "a NOT BETWEEN -7 AND 1",
        "s LIKE 'a%'",
        "s NOT ILIKE 'A%'",
        "s IN ('abc', '')",
        "s NOT IN ('abc', '')",
        "a IS DISTINCT FROM 1",
        "(a > 0) IS TRUE",
        "(a > 0) IS NOT FALSE",
        "(a > 0) IS UNKNOWN",
        "CASE WHEN a > 0 THEN 'plus' WHEN a < 0 THEN 'minus' END",
        "CASE a WHEN 1 THEN f ELSE 0.5e0 END",
        "CAST(a AS VARCHAR)",
        "TRY_CAST(s AS BIGINT)",
        "CAST(a AS DECIMAL(12, 3))",
        "upper(s) || '-' || substr(s, 2)",
        "coalesce(a, 0)",
        "round(f, 2)",
        "length(s)",
        "date_trunc('hour', CAST(to_timestamp(a) AS TIMESTAMP))",
        "CAST('2013-07-01' AS DATE) + INTERVAL '1 month 2 days'",
        "regexp_replace(s, '[a-b]', 'z')",
        "s ~ 'b+'",
        "s SIMILAR TO '(abc|x)%'",
        "make_array(a, 2)[1]",
        "nullif(a, 1)",
        "a & 3 | 8",
        "abs(a)",
        "to_hex(a)",
        "md5(s)",
        "split_part(s, 'b', 1)",
    ]
}

#[test]
fn an_expression_survives_its_stored_form() {
    let batch = batch();
    let schema = DFSchema::try_from(batch.schema().as_ref().clone()).expect("schema");
    let context = datafusion::prelude::SessionContext::new();
    for text in expressions() {
        let expr = context.parse_sql_expr(text, &schema).unwrap_or_else(|error| panic!("{text}: {error}"));
        let expr = coerce(expr, &schema);
        let scalar = Scalar::from_expr(&expr, &schema).unwrap_or_else(|error| panic!("{text}: {error}"));
        let json = serde_json::to_string(&scalar).expect("plain data");
        let read: Scalar = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read, scalar, "{text}");
        let back = read.to_expr(&|i| Column::from_name(batch.schema().field(i).name())).expect("known functions");
        let (want, got) = (evaluate(&expr, &batch, &schema), evaluate(&back, &batch, &schema));
        assert_eq!(format!("{want:?}"), format!("{got:?}"), "{text}");
        assert!(!read.describe(&|i| format!("c{i}")).is_empty());
    }
}

/// What the planner does before an expression becomes a scalar.
fn coerce(expr: Expr, schema: &DFSchema) -> Expr {
    use datafusion::logical_expr::simplify::SimplifyContext;
    use datafusion::optimizer::simplify_expressions::ExprSimplifier;
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr, schema).expect("types fit");
    simplifier.simplify(expr).expect("simplifies")
}

#[test]
fn a_long_chain_is_one_node_and_a_deep_expression_is_flat_json() {
    let column = || Scalar::Column(0);
    let mut deep = column();
    for _ in 0..500 {
        deep = Scalar::Not(Box::new(deep));
    }
    let json = serde_json::to_vec(&deep).expect("plain data");
    assert_eq!(serde_json::from_slice::<Scalar>(&json).expect("reads back"), deep);
    let schema = DFSchema::try_from(Schema::new(vec![Field::new("b", DataType::Boolean, true)])).expect("schema");
    let operands = vec![Expr::Column(Column::from_name("b")); 10_000];
    let scalar = Scalar::from_expr(&balanced(operands, BinaryOperator::Or), &schema).expect("plain columns");
    assert!(matches!(&scalar, Scalar::Or(operands) if operands.len() == 10_000));
}

#[test]
fn broken_steps_are_an_error() {
    for json in ["[]", "[\"not\"]", "[{\"column\":0},{\"column\":1}]", "[{\"binary\":\"nope\"}]", "[{\"and\":3}]"] {
        assert!(serde_json::from_str::<Scalar>(json).is_err(), "{json}");
    }
}

#[test]
fn constants_survive_to_the_bit() {
    let list = |values: &[ScalarValue]| ScalarValue::List(ScalarValue::new_list_nullable(values, &DataType::Float64));
    let quiet = f64::from_bits(0x7ff8_0000_0000_0abc);
    let interval = IntervalMonthDayNano { months: -1, days: 2, nanoseconds: i64::MIN };
    for value in [
        ScalarValue::Null,
        ScalarValue::Boolean(Some(true)),
        ScalarValue::Int8(Some(-128)),
        ScalarValue::UInt64(Some(u64::MAX)),
        ScalarValue::Float64(Some(-0.0)),
        ScalarValue::Float64(Some(quiet)),
        ScalarValue::Float32(Some(f32::MIN_POSITIVE)),
        ScalarValue::Decimal128(Some(i128::MAX), 38, 10),
        ScalarValue::Utf8(Some("it's \u{1F600}\0".into())),
        ScalarValue::Binary(Some(vec![0, 255, 16])),
        ScalarValue::TimestampMicrosecond(Some(-1), Some("UTC".into())),
        ScalarValue::TimestampNanosecond(None, None),
        ScalarValue::IntervalMonthDayNano(Some(interval)),
        ScalarValue::Date32(Some(-719_163)),
        list(&[]),
        list(&[ScalarValue::Float64(Some(0.1)), ScalarValue::Float64(None)]),
    ] {
        let literal = Literal::from_value(&value).expect("storable");
        let json = serde_json::to_string(&literal).expect("plain data");
        let read: Literal = serde_json::from_str(&json).expect("reads back");
        let back = read.to_value().expect("own encoding");
        assert_eq!(back.data_type(), value.data_type());
        match (&back, &value) {
            (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => assert_eq!(a.to_bits(), b.to_bits()),
            _ => assert_eq!(back, value),
        }
    }
}
