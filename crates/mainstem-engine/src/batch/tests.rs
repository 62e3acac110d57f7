//! The functions that queries run with.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::context::{ContextOptions, empty_context, plan_text, register, run};

fn context_of(parts: Vec<Vec<(i64, Option<f64>)>>, options: &ContextOptions) -> SessionContext {
    let batches: Vec<RecordBatch> = parts
        .into_iter()
        .map(|rows| {
            let groups: ArrayRef = Arc::new(rows.iter().map(|(group, _)| Some(*group)).collect::<Int64Array>());
            let values: ArrayRef = Arc::new(rows.iter().map(|(_, value)| *value).collect::<Float64Array>());
            RecordBatch::try_from_iter_with_nullable([("g", groups, true), ("x", values, true)]).expect("two columns")
        })
        .collect();
    let table = MemTable::try_new(batches[0].schema(), vec![batches]).expect("one schema");
    let context = empty_context(options);
    register(&context, "public", "t", Arc::new(table));
    context
}

async fn select(context: &SessionContext, query: &str) -> Result<RecordBatch, mainstem_sql::SqlError> {
    let plan = plan_text(context, query).await?;
    let schema = plan.schema().inner().clone();
    let stream = run(context, plan, None).await?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(super::query_error)?;
    Ok(arrow::compute::concat_batches(&batches.first().map_or(schema, RecordBatch::schema), &batches)
        .expect("one schema"))
}

#[tokio::test]
async fn sums_of_floats_do_not_depend_on_the_order_of_rows() {
    let values = [1e100, 1.0, -1e100, 0.1, 0.2, 0.3, 1e-9, -0.0];
    let mut bits = Vec::new();
    for turn in 0..values.len() {
        let mut rows: Vec<(i64, Option<f64>)> = values.iter().map(|value| (1, Some(*value))).collect();
        rows.rotate_left(turn);
        rows.push((2, None));
        let parts = vec![rows[..3].to_vec(), rows[3..].to_vec()];
        let options = ContextOptions { partitions: 1 + turn % 2, ..ContextOptions::default() };
        let context = context_of(parts, &options);
        let query = "SELECT g, sum(x), avg(x), sum(x + 1.5), sum(DISTINCT x), count(x) FROM t GROUP BY g ORDER BY g";
        let found = select(&context, query).await.expect("runs");
        assert_eq!(found.num_rows(), 2);
        assert!(found.column(1).is_null(1) && found.column(2).is_null(1), "no values, no sum");
        assert_eq!(found.column(5).as_primitive::<Int64Type>().values().as_ref(), &[8, 0]);
        let float = |column: usize| found.column(column).as_primitive::<Float64Type>().value(0).to_bits();
        let total = select(&context, "SELECT sum(x), avg(x) FROM t").await.expect("runs");
        let whole = total.column(0).as_primitive::<Float64Type>().value(0);
        assert!((whole - 1.6).abs() < 1e-6, "{whole}");
        bits.push([float(1), float(2), float(3), float(4), whole.to_bits()]);
    }
    bits.dedup();
    assert_eq!(bits.len(), 1);
}

#[tokio::test]
async fn a_query_that_needs_too_much_memory_fails_alone() {
    let options = ContextOptions { runtime: super::memory_limited(1 << 20), ..ContextOptions::default() };
    let rows: Vec<(i64, Option<f64>)> = (0..200_000).map(|row| (row, Some(row as f64))).collect();
    let context = context_of(vec![rows], &options);
    let error = select(&context, "SELECT g, count(*) FROM t GROUP BY g").await.expect_err("200,000 groups in 1 MiB");
    assert_eq!(error.sqlstate, "53200", "{error}");
    let found = select(&context, "SELECT count(*) FROM t").await.expect("a small one runs");
    assert_eq!(found.column(0).as_primitive::<Int64Type>().value(0), 200_000);
}

#[tokio::test]
async fn errors_of_data_have_postgresqls_codes() {
    let context = context_of(vec![vec![(0, Some(1.0))]], &ContextOptions::default());
    for (query, state) in [
        ("SELECT 1 / g FROM t", "22012"),
        ("SELECT CAST('x' || CAST(g AS varchar) AS integer) FROM t", "22P02"),
        ("SELECT nothing FROM t", "42703"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT frobnicate(g) FROM t", "42883"),
    ] {
        let error = select(&context, query).await.expect_err(query);
        assert_eq!(error.sqlstate, state, "{query}: {error}");
    }
}

fn whole_numbers(integers: Vec<Option<i64>>, decimals: Vec<Option<i128>>, options: &ContextOptions) -> SessionContext {
    let groups: ArrayRef = Arc::new((0..integers.len()).map(|row| Some(row as i64 % 2)).collect::<Int64Array>());
    let integers: ArrayRef = Arc::new(Int64Array::from(integers));
    let decimals = Decimal128Array::from(decimals).with_precision_and_scale(38, 2).expect("38 digits");
    let columns = [("g", groups, true), ("n", integers, true), ("d", Arc::new(decimals) as ArrayRef, true)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("three columns");
    let half = batch.num_rows() / 2;
    let parts = vec![vec![batch.slice(0, half)], vec![batch.slice(half, batch.num_rows() - half)]];
    let context = empty_context(options);
    register(&context, "public", "t", Arc::new(MemTable::try_new(batch.schema(), parts).expect("one schema")));
    context
}

#[tokio::test]
async fn sums_of_integers_and_decimals_do_not_wrap_on_the_way() {
    let (big, huge) = (i64::MAX, 10_i128.pow(38) - 1);
    for turn in 0..8 {
        // Row 2k and row 2k + 1 are of the same pair, so each group has all of the values.
        let mut integers: Vec<_> = [big, big, -big, -3].iter().flat_map(|n| [Some(*n); 2]).collect();
        let mut decimals: Vec<_> = [huge, huge, -huge, -250].iter().flat_map(|d| [Some(*d); 2]).collect();
        integers.rotate_left(2 * (turn % 4));
        decimals.rotate_left(2 * (turn % 4));
        integers.extend([None, None]);
        decimals.extend([None, None]);
        let options = ContextOptions { partitions: 1 + turn / 4, ..ContextOptions::default() };
        let context = whole_numbers(integers, decimals, &options);
        let sums = "sum(n), sum(d), sum(DISTINCT n), sum(n) FILTER (WHERE n > -10 AND n < 0), \
                    avg(d) FILTER (WHERE n > -10 AND n < 0), sum(DISTINCT d)";
        for query in
            [format!("SELECT {sums} FROM t WHERE g = 1"), format!("SELECT {sums} FROM t GROUP BY g ORDER BY g LIMIT 1")]
        {
            let found = select(&context, &query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
            let integer = |column: usize| found.column(column).as_primitive::<Int64Type>().value(0);
            let decimal = |column: usize| found.column(column).as_primitive::<Decimal128Type>().value(0);
            assert_eq!((integer(0), decimal(1)), (big - 3, huge - 250), "{query}");
            assert_eq!((integer(2), decimal(5)), (-3, -250), "{query}");
            assert_eq!(integer(3), -3, "{query}");
            assert_eq!(decimal(4), -2_500_000, "four more digits: {query}");
        }
    }
}

#[tokio::test]
async fn sums_that_do_not_fit_are_errors() {
    let options = ContextOptions { partitions: 2, ..ContextOptions::default() };
    let huge = 10_i128.pow(38) - 1;
    let context = whole_numbers(vec![Some(i64::MAX), Some(2), Some(1), None], vec![Some(huge); 4], &options);
    for (query, wanted) in [
        ("SELECT sum(n) FROM t", "bigint"),
        ("SELECT g, sum(n) FROM t GROUP BY g", "bigint"),
        ("SELECT sum(DISTINCT n) FROM t", "bigint"),
        ("SELECT sum(n) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) FROM t", "bigint"),
        ("SELECT sum(0 - n) FROM t", "bigint"),
        ("SELECT sum(d) FROM t", "numeric(38, 2)"),
        ("SELECT g, sum(d) FROM t GROUP BY g", "numeric(38, 2)"),
        ("SELECT avg(d) FROM t", "numeric(38, 6)"),
        ("SELECT g, avg(d) FROM t GROUP BY g", "numeric(38, 6)"),
    ] {
        let error = select(&context, query).await.expect_err(query);
        assert_eq!(error.sqlstate, "22003", "{query}: {error}");
        assert!(error.message.contains(wanted), "{query}: {error}");
    }
    let found = select(&context, "SELECT g, sum(n) FROM t WHERE g = 1 GROUP BY g").await.expect("the other group");
    assert_eq!(found.column(1).as_primitive::<Int64Type>().value(0), 2);
    let none = select(&context, "SELECT sum(n), sum(d), avg(d) FROM t WHERE false").await.expect("no rows");
    assert!((0..3).all(|column| none.column(column).is_null(0)), "no values, no sum");
}

#[tokio::test]
async fn sums_over_windows_take_back_what_leaves_the_frame() {
    let context = whole_numbers(
        vec![Some(i64::MAX), Some(-5), None, Some(-5)],
        vec![Some(100), Some(50), None, Some(25)],
        &ContextOptions::default(),
    );
    let frame = "OVER (ORDER BY d DESC NULLS LAST ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)";
    let found = select(&context, &format!("SELECT sum(n) {frame}, sum(d) {frame} FROM t")).await.expect("runs");
    let integers: Vec<_> = found.column(0).as_primitive::<Int64Type>().iter().collect();
    let decimals: Vec<_> = found.column(1).as_primitive::<Decimal128Type>().iter().collect();
    assert_eq!(integers, [Some(i64::MAX), Some(i64::MAX - 5), Some(-10), Some(-5)]);
    assert_eq!(decimals, [Some(100), Some(150), Some(75), Some(25)]);
}
