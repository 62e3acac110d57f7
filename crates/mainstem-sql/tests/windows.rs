//! tumble() and hop() as stock DataFusion runs them, against windows counted by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement as AstStatement;
use mainstem_sql::{Purpose, parse_query, rewrite_query, session_state_builder};

const MINUTE_US: i64 = 60_000_000;

fn times() -> Vec<Option<i64>> {
    let mut times: Vec<_> = (-30..30).map(|i| Some(i * 37 * 1_000_003)).collect();
    times.extend([None, Some(0), Some(MINUTE_US), Some(-MINUTE_US), None]);
    times
}

async fn run(sql: &str) -> BTreeMap<(i64, i64), i64> {
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times()).with_timezone("UTC"));
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..at.len() as i64));
    let batch = RecordBatch::try_from_iter([("id", id), ("at", at)]).expect("fits");
    let context = SessionContext::new_with_state(session_state_builder(Purpose::Query).build());
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("one schema");
    context.register_table("t", Arc::new(table)).expect("new table");
    let mut query = parse_query(sql).expect("parses");
    rewrite_query(&mut query).expect("known functions");
    let statement = DfStatement::Statement(Box::new(AstStatement::Query(query)));
    let plan = context.state().statement_to_plan(statement).await.expect("plans");
    let batches = context.execute_logical_plan(plan).await.expect("executes").collect().await.expect("runs");
    let mut windows = BTreeMap::new();
    for batch in batches {
        let start = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let end = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let count = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            windows.insert((start.value(row), end.value(row)), count.value(row));
        }
    }
    windows
}

fn by_hand(slide: i64, size: i64, offset: i64) -> BTreeMap<(i64, i64), i64> {
    let mut windows = BTreeMap::new();
    for k in -3_000..3_000 {
        let start = offset + k * slide;
        let count = times().into_iter().flatten().filter(|at| (start..start + size).contains(at)).count();
        if count > 0 {
            windows.insert((start, start + size), count as i64);
        }
    }
    windows
}

#[tokio::test]
async fn tumbling_windows_hold_each_time_once() {
    let sql = "SELECT window_start, window_end, count(*) FROM tumble(t, at, INTERVAL '1 minute') GROUP BY 1, 2";
    assert_eq!(run(sql).await, by_hand(MINUTE_US, MINUTE_US, 0));
    let sql = "SELECT window_start, window_end, count(id) FROM tumble((SELECT * FROM t WHERE id >= 0), at, \
               INTERVAL '7 minutes', INTERVAL '10 seconds') AS w GROUP BY w.window_start, w.window_end";
    assert_eq!(run(sql).await, by_hand(7 * MINUTE_US, 7 * MINUTE_US, 10_000_000));
}

#[tokio::test]
async fn hopping_windows_hold_each_time_as_often_as_they_overlap() {
    let sql = "SELECT window_start, window_end, count(*) FROM hop(t, at, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE) GROUP BY 1, 2";
    assert_eq!(run(sql).await, by_hand(MINUTE_US, 5 * MINUTE_US, 0));
    let sql = "WITH c AS (SELECT at AS ts, id FROM t) SELECT window_start, window_end, count(*) FROM \
               TABLE(HOP(TABLE c, DESCRIPTOR(ts), INTERVAL '90' SECOND, INTERVAL '4' MINUTE)) GROUP BY 1, 2";
    assert_eq!(run(sql).await, by_hand(90_000_000, 4 * MINUTE_US, 0));
}
