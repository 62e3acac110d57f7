//! One session, statement by statement.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use mainstem_engine::tables::{Dml, DmlPlan};
use mainstem_sql::{Statement, parse};

use super::database::{Database, Session, lines};

const PEOPLE: &str =
    "CREATE TABLE people (id INT PRIMARY KEY, name VARCHAR NOT NULL, age SMALLINT DEFAULT 18, balance NUMERIC(8,2))";

fn text(bytes: Option<&bytes::Bytes>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).expect("UTF-8"))
}

async fn fails(database: &Database, session: &mut Session, sql: &str) -> (String, String) {
    let error = database.dml(session, sql).await.expect_err(sql);
    (
        error.sqlstate.to_owned(),
        error.detail.map_or(error.message.clone(), |detail| format!("{}: {detail}", error.message)),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_become_records_that_any_consumer_can_read() {
    let database = Database::new(&[PEOPLE]);
    let mut session = Session::default();
    let sql = "INSERT INTO people (id, name, balance) VALUES (1, 'Ada', 10.5), (2, 'Bo', NULL) RETURNING *";
    let result = database.dml(&mut session, sql).await.expect("inserts");
    assert_eq!(result.rows_affected, 2);
    assert_eq!(lines(&result.returning.expect("RETURNING")), ["1|Ada|18|10.50", "2|Bo|18|null"]);
    database.dml(&mut session, "UPDATE people SET age = age + 1, id = 3 WHERE name = 'Bo'").await.expect("updates");
    let deleted = database.dml(&mut session, "DELETE FROM people WHERE id = 1 RETURNING name").await.expect("deletes");
    assert_eq!(lines(&deleted.returning.expect("RETURNING")), ["Ada"]);
    let records = database.log.records(database.topic("people"));
    let records: Vec<_> = records.iter().map(|it| (text(it.key.as_ref()), text(it.value.as_ref()))).collect();
    let record = |key: &str, value: Option<&str>| (Some(key.to_owned()), value.map(str::to_owned));
    assert_eq!(
        records,
        [
            record("{\"id\":1}", Some("{\"id\":1,\"name\":\"Ada\",\"age\":18,\"balance\":10.50}")),
            record("{\"id\":2}", Some("{\"id\":2,\"name\":\"Bo\",\"age\":18,\"balance\":null}")),
            record("{\"id\":2}", None),
            record("{\"id\":3}", Some("{\"id\":3,\"name\":\"Bo\",\"age\":19,\"balance\":null}")),
            record("{\"id\":1}", None),
        ]
    );
    assert_eq!(database.rows("SELECT * FROM people").await, ["3|Bo|19|null"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_do_not_fit_are_refused_with_postgresqls_codes_and_leave_no_trace() {
    let database = Database::new(&[PEOPLE]);
    let mut session = Session::default();
    database.dml(&mut session, "INSERT INTO people VALUES (1, 'Ada')").await.expect("inserts");
    let commits = database.log.commits();
    for (sql, state, message) in [
        ("INSERT INTO people VALUES (2, 'x'), (1, 'y')", "23505", "Key (id)=(1) already exists."),
        ("INSERT INTO people VALUES (2, 'x'), (2, 'y')", "23505", "Key (id)=(2) already exists."),
        ("INSERT INTO people (id) VALUES (2)", "23502", "null value in column \"name\""),
        ("INSERT INTO people (name) VALUES ('x')", "23502", "null value in column \"id\""),
        ("INSERT INTO people VALUES ('two', 'x')", "22P02", "invalid input syntax for type integer: \"two\""),
        ("INSERT INTO people VALUES (2, 'x', 40000)", "22003", "out of range"),
        ("INSERT INTO people VALUES (2, 'x', 1, 1234567.891)", "22003", "numeric field overflow"),
        ("INSERT INTO people VALUES (2, 'x', 1, 1, 1)", "42601", "more expressions than target columns"),
        ("INSERT INTO people (id, name) VALUES (2)", "42601", "more target columns than expressions"),
        ("INSERT INTO people (id, id) VALUES (2, 2)", "42701", "specified more than once"),
        ("INSERT INTO people (nothing) VALUES (2)", "42703", "does not exist"),
        ("INSERT INTO nowhere VALUES (2)", "42P01", "relation \"nowhere\" does not exist"),
        ("UPDATE people SET name = NULL", "23502", "null value in column \"name\""),
        ("UPDATE people SET id = name", "42804", "is of type integer but expression is of type character varying"),
        ("UPDATE people SET age = 1 / 0", "22012", "division by zero"),
        ("UPDATE people SET nothing = 1", "42703", "does not exist"),
        ("INSERT INTO people VALUES (1, 'x') ON CONFLICT (name) DO NOTHING", "42P10", "ON CONFLICT"),
    ] {
        let (found, text) = fails(&database, &mut session, sql).await;
        assert_eq!(found, state, "{sql}: {text}");
        assert!(text.contains(message), "{sql}: {text}");
    }
    assert_eq!(database.log.commits(), commits, "nothing was appended");
    assert_eq!(database.rows("SELECT * FROM people").await, ["1|Ada|18|null"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_conflict_updates_or_skips_what_is_there() {
    let database = Database::new(&[PEOPLE]);
    let mut session = Session::default();
    database.dml(&mut session, "INSERT INTO people VALUES (1, 'Ada', 30), (2, 'Bo', 40)").await.expect("inserts");
    let skipped = "INSERT INTO people VALUES (1, 'x', 1), (3, 'Cy', 50), (3, 'y', 1) ON CONFLICT DO NOTHING";
    assert_eq!(database.dml(&mut session, skipped).await.expect("skips").rows_affected, 1);
    let updated = "INSERT INTO people AS p VALUES (1, 'Ada L', 5), (2, 'Bob', 5), (4, 'Di', 5) \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name, age = p.age + excluded.age WHERE p.age < 40 \
                   RETURNING id, age";
    let result = database.dml(&mut session, updated).await.expect("updates");
    let mut returned = lines(&result.returning.expect("RETURNING"));
    returned.sort();
    assert_eq!((result.rows_affected, returned), (2, vec!["1|35".to_owned(), "4|5".to_owned()]));
    assert_eq!(database.rows("SELECT id, name, age FROM people").await, ["1|Ada L|35", "2|Bo|40", "3|Cy|50", "4|Di|5"]);
    let twice = "INSERT INTO people VALUES (1, 'x'), (1, 'y') ON CONFLICT (id) DO UPDATE SET name = excluded.name";
    assert_eq!(fails(&database, &mut session, twice).await.0, "21000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_read_other_relations_and_their_own_table() {
    let database = Database::new(&[
        PEOPLE,
        "CREATE TABLE raises (id INT PRIMARY KEY, amount NUMERIC(8,2))",
        "CREATE TABLE notes (note VARCHAR)",
        "CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n, sum(balance) AS total FROM people",
    ]);
    let mut session = Session::default();
    for sql in [
        "INSERT INTO people SELECT x, 'p' || x::varchar, 20, 100 FROM (VALUES (1), (2), (3)) AS t(x)",
        "INSERT INTO raises VALUES (1, 5), (3, 7.25)",
        "UPDATE people SET balance = balance + r.amount FROM raises r WHERE r.id = people.id",
        "INSERT INTO people SELECT id + 10, name, age, balance FROM people",
        "DELETE FROM people USING raises WHERE raises.id = people.id AND amount > 7",
        "INSERT INTO notes VALUES ('a'), ('a'), ('b')",
        "UPDATE notes SET note = 'c' WHERE note = 'b'",
        "DELETE FROM notes WHERE note = (SELECT min(note) FROM notes) AND EXISTS (SELECT 1 FROM people)",
        "INSERT INTO notes SELECT name FROM people WHERE id > (SELECT max(id) FROM raises)",
    ] {
        database.dml(&mut session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    assert_eq!(
        database.rows("SELECT id, balance FROM people").await,
        ["11|105.00", "12|100.00", "13|107.25", "1|105.00", "2|100.00"]
    );
    assert_eq!(database.rows("SELECT * FROM notes").await, ["c", "p1", "p2", "p3"]);
    assert_eq!(database.rows("SELECT * FROM totals").await, ["5|517.25"]);
    for relation in ["people", "notes", "totals"] {
        let comparison = database.compare(relation).await;
        assert!(comparison.is_equal() && comparison.rows > 0, "{relation}: {comparison:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_larger_than_an_entry_is_refused() {
    let database = Database::new(&["CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR)"]);
    let mut session = Session::default();
    let sql = "INSERT INTO t SELECT x, repeat('a', 1000) FROM (SELECT unnest(range(0, 140000)) AS x)";
    let error = database.dml(&mut session, sql).await.expect_err("140 MB");
    assert_eq!(error.sqlstate, "54000", "{error}");
    let smaller = sql.replace("140000", "20000");
    assert_eq!(database.dml(&mut session, &smaller).await.expect("20 MB").rows_affected, 20_000);
    assert_eq!(database.rows("SELECT count(*), min(id), max(id) FROM t").await, ["20000|0|19999"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_have_the_types_of_their_columns_and_take_text_for_any() {
    let database = Database::new(&[PEOPLE]);
    let plan = |sql: &str, parameters: Vec<ScalarValue>| {
        let statement = match parse(sql).expect(sql).remove(0) {
            Statement::Insert(insert) => Dml::Insert(insert),
            Statement::Update(update) => Dml::Update(update),
            Statement::Delete(delete) => Dml::Delete(delete),
            other => panic!("no DML: {other:?}"),
        };
        DmlPlan { parameters, ..DmlPlan::new(database.catalog.clone(), statement) }
    };
    let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
    let insert = "INSERT INTO people (id, name, balance) VALUES ($1, $2, $3) RETURNING name, id";
    let described = database.tables.describe(&plan(insert, Vec::new())).await.expect("describes");
    let types: Vec<_> = described.parameters.into_iter().collect();
    assert_eq!(types, [(1, DataType::Int32), (2, DataType::Utf8), (3, DataType::Decimal128(8, 2))]);
    assert_eq!(described.returning.expect("RETURNING").fields().len(), 2);
    let run = |sql: &'static str, parameters| database.tables.execute(None, plan(sql, parameters));
    run(insert, vec![ScalarValue::Int64(Some(1)), text("Ada"), text("2.25")]).await.expect("inserts");
    let bad = run(insert, vec![text("one"), text("Bo"), ScalarValue::Utf8(None)]).await.expect_err("no number");
    assert_eq!(bad.sqlstate, "22P02");
    let update = "UPDATE people SET name = $1, balance = balance + $2 WHERE id = $3";
    let described = database.tables.describe(&plan(update, Vec::new())).await.expect("describes");
    assert_eq!(described.parameters.get(&3), Some(&DataType::Int32));
    let parameters = vec![text("Eve"), ScalarValue::Int32(Some(2)), ScalarValue::Int32(Some(1))];
    assert_eq!(run(update, parameters).await.expect("updates").rows_affected, 1);
    assert_eq!(database.rows("SELECT id, name, balance FROM people").await, ["1|Eve|4.25"]);
    let delete = run("DELETE FROM people WHERE name = $1", vec![text("Eve")]).await.expect("deletes");
    assert_eq!(delete.rows_affected, 1);
}
