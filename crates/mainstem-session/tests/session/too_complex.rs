//! Statements that are nested deeply or long: an answer or 54001, never the end of the process.

use crate::database::Database;

#[tokio::test(flavor = "multi_thread")]
async fn deep_and_long_statements_end_well() {
    let mut client = Database::new().connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY)").await;
    client.run("INSERT INTO t VALUES (7)").await;
    let nested = format!("SELECT {}1{}", "(".repeat(1000), ")".repeat(1000));
    let ors = (0..10_000).map(|i| format!("id = {i}")).collect::<Vec<_>>().join(" OR ");
    let functions = format!("SELECT {}1{}", "abs(".repeat(1000), ")".repeat(1000));
    let sums = format!("SELECT {}1", "1 + ".repeat(20_000));
    for sql in [nested, format!("SELECT count(*) FROM t WHERE {ors}"), functions, sums] {
        match client.try_run(&sql).await {
            Ok(answer) => assert_eq!(answer.lines().count(), 1, "{}", &sql[..40]),
            Err(error) => assert_eq!(error.sqlstate, "54001", "{}: {}", &sql[..40], error.message),
        }
    }
    assert_eq!(client.run("SELECT id FROM t").await, "7");
}
