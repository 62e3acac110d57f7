//! The SQL files of `tests/slt`, over the PostgreSQL port of a server of their own: once plainly, and once with the server
//! killed and started again between two records.
//!
//! Cells are compared as text: null is `NULL`, the empty string `(empty)`. `MAINSTEM_SEED` fixes where the kill is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstem_sql::Statement;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqllogictest::{AsyncDB, Connection, DBOutput, DefaultColumnType, Record, Runner, StatementExpect};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::process::{Server, rows};

/// A connection that the runner speaks through.
struct Session {
    client: Client,
}

/// What the server said, first its message, so that files can match it.
#[derive(Debug)]
struct Refusal(tokio_postgres::Error);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_db_error() {
            Some(error) => write!(f, "{}: {}", error.code().code(), error.message()),
            None => write!(f, "{}", self.0),
        }
    }
}

impl std::error::Error for Refusal {}

#[async_trait::async_trait]
impl AsyncDB for Session {
    type Error = Refusal;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Refusal> {
        let answer = tokio::time::timeout(Duration::from_secs(120), self.client.simple_query(sql)).await;
        let messages = answer.unwrap_or_else(|_| panic!("no answer for two minutes: {sql}")).map_err(Refusal)?;
        let (mut found, mut columns, mut count) = (Vec::new(), None, 0);
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(description) => columns = Some(description.len()),
                SimpleQueryMessage::Row(row) => found.push((0..row.len()).map(|cell| text_of(row.get(cell))).collect()),
                SimpleQueryMessage::CommandComplete(changed) => count = changed,
                _ => {}
            }
        }
        Ok(match columns {
            Some(columns) => DBOutput::Rows { types: vec![DefaultColumnType::Text; columns], rows: found },
            None => DBOutput::StatementComplete(count),
        })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "mainstem"
    }

    /// Between two attempts of a record with `retry`.
    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn error_sql_state(error: &Refusal) -> Option<String> {
        error.0.code().map(|code| code.code().to_owned())
    }
}

fn text_of(cell: Option<&str>) -> String {
    match cell {
        None => "NULL".to_owned(),
        Some("") => "(empty)".to_owned(),
        Some(text) => text.to_owned(),
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/slt");
    let mut open = vec![folder];
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "slt") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Records before which a kill takes nothing away that the file counts on: those at which no session has a transaction.
fn quiet_places(records: &[Record<DefaultColumnType>]) -> Vec<usize> {
    let (mut connection, mut in_transaction) = (Connection::Default, Vec::new());
    let mut places = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let sql = match record {
            Record::Connection(named) => {
                connection = named.clone();
                continue;
            }
            Record::Statement { sql, .. } | Record::Query { sql, .. } => sql.trim().to_uppercase(),
            _ => continue,
        };
        if in_transaction.is_empty() {
            places.push(place);
        }
        if sql.starts_with("BEGIN") {
            in_transaction.push(connection.clone());
        } else if sql.starts_with("COMMIT") || sql.starts_with("ROLLBACK") {
            in_transaction.retain(|open| *open != connection);
        }
    }
    places
}

/// What SHOW CREATE gives for what was just created makes it again, with the same columns.
async fn made_again(server: &Mutex<Option<Server>>, sql: &str) -> Result<(), String> {
    let (kind, name) = match mainstem_sql::parse(sql).map_err(|error| error.to_string())?.as_slice() {
        [Statement::CreateTable(create)] if !create.if_not_exists => ("TABLE", create.name.clone()),
        [Statement::CreateSource(create)] if !create.if_not_exists => ("SOURCE", create.name.clone()),
        [Statement::CreateView(create)] if !create.if_not_exists => ("VIEW", create.name.clone()),
        [Statement::CreateMaterializedView(create)] if !create.if_not_exists => {
            ("MATERIALIZED VIEW", create.name.clone())
        }
        [Statement::CreateSink(create)] if !create.if_not_exists => ("SINK", create.name.clone()),
        [Statement::CreateIndex(create)] if !create.if_not_exists => ("INDEX", create.name.clone()),
        _ => return Ok(()),
    };
    let address = server.lock().expect("no panic inside").as_ref().expect("a server").pg.clone();
    let (host, port) = address.rsplit_once(':').expect("host:port");
    let config = format!("host={host} port={port} user=root dbname=dev");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let quoted = format!("\"{}\"", name.name.replace('"', "\"\""));
    let columns = format!(
        "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns \
         WHERE table_name = '{}' ORDER BY ordinal_position",
        name.name.replace('\'', "''")
    );
    let show = format!("SHOW CREATE {kind} {quoted}");
    let before = (rows(&client, &show).await, rows(&client, &columns).await);
    if let Err(error) = client.simple_query(&format!("DROP {kind} {quoted}")).await {
        // What was put in the place of another may be depended upon.
        return if error.code().is_some_and(|code| code.code() == "2BP01") { Ok(()) } else { Err(error.to_string()) };
    }
    let text = &before.0[0][1];
    client.simple_query(text).await.map_err(|error| format!("{text}: {error:?}"))?;
    let after = (rows(&client, &show).await, rows(&client, &columns).await);
    if before == after { Ok(()) } else { Err(format!("{before:?} came again as {after:?}")) }
}

/// Runs a file on a server of its own; before the record at `kill_at` the server is killed and started again. With
/// `makes_again`, all that it creates is dropped and made again from what SHOW CREATE says.
async fn run_file(path: &Path, kill_at: Option<usize>, makes_again: bool) -> Result<(), String> {
    let records = sqllogictest::parse_file::<DefaultColumnType>(path).map_err(|error| error.to_string())?;
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Arc::new(Mutex::new(Some(Server::start(dir.path()))));
    let runner_of = || {
        let server = server.clone();
        Runner::new(move || {
            let server = server.clone();
            async move {
                let address = server.lock().expect("no panic inside").as_ref().expect("a server").pg.clone();
                let (host, port) = address.rsplit_once(':').expect("host:port");
                let config = format!("host={host} port={port} user=root dbname=dev");
                let (client, connection) = tokio_postgres::connect(&config, NoTls).await.map_err(Refusal)?;
                tokio::spawn(connection);
                Ok(Session { client })
            }
        })
    };
    let mut runner = runner_of();
    let mut connection = Connection::Default;
    for (place, record) in records.into_iter().enumerate() {
        if kill_at == Some(place) {
            drop(runner);
            let old = server.lock().expect("no panic inside").take().expect("a server");
            old.kill();
            *server.lock().expect("no panic inside") = Some(Server::start(dir.path()));
            runner = runner_of();
            runner.run_async(Record::Connection(connection.clone())).await.map_err(|error| error.to_string())?;
        }
        if let Record::Connection(named) = &record {
            connection = named.clone();
        }
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        let created = match &record {
            Record::Statement { sql, expected: StatementExpect::Ok, .. } if makes_again => Some(sql.clone()),
            _ => None,
        };
        runner.run_async(record).await.map_err(|error| error.display(false).to_string())?;
        if let Some(sql) = created.filter(|sql| sql.trim_start().to_uppercase().starts_with("CREATE")) {
            made_again(&server, &sql).await.map_err(|error| format!("{sql}: {error}"))?;
        }
    }
    Ok(())
}

/// Every file, two at a time; fails with what each of them said.
async fn run_all(kill_places: impl Fn(&Path) -> Option<usize> + Send + Sync + 'static, makes_again: bool) {
    let (files, kill_places) = (Arc::new(files()), Arc::new(kill_places));
    assert!(files.len() >= 8, "the files are gone: {files:?}");
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (files, next, kill_places) = (files.clone(), next.clone(), kill_places.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let kill_at = kill_places(file);
                    if let Err(error) = run_file(file, kill_at, makes_again).await {
                        failed.push(format!("{} (killed before record {kill_at:?}): {error}", file.display()));
                    }
                }
                failed
            })
        })
        .collect();
    let mut failed = Vec::new();
    for worker in workers {
        failed.extend(worker.await.expect("no panic inside"));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_files_hold() {
    run_all(|_| None, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_show_create_gives_makes_it_again() {
    run_all(|_| None, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_files_hold_with_a_kill_in_between() {
    let seed = std::env::var("MAINSTEM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("MAINSTEM_SEED={seed}");
    let places = move |file: &Path| {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let of_file = name.bytes().fold(seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let records = sqllogictest::parse_file::<DefaultColumnType>(file).expect("it parsed before");
        let places = quiet_places(&records);
        Some(places[StdRng::seed_from_u64(of_file).random_range(1..places.len())])
    };
    run_all(places, false).await;
}

/// Too long or too deep to be written in a file.
#[tokio::test(flavor = "multi_thread")]
async fn enormous_expressions_end_in_an_answer_or_an_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    let client = server.connect().await;
    client.simple_query("CREATE TABLE t (id int PRIMARY KEY)").await.expect("creates");
    client.simple_query("INSERT INTO t VALUES (0), (5), (9999), (10000)").await.expect("inserts");

    let terms: Vec<String> = (0..10_000).map(|n| format!("id = {n}")).collect();
    let any = terms.join(" OR ");
    let refused = |error: &tokio_postgres::Error| {
        let error = error.as_db_error().unwrap_or_else(|| panic!("the connection broke: {error:?}"));
        assert_eq!(error.code().code(), "54001", "{error:?}");
    };
    match client.simple_query(&format!("SELECT count(*) FROM t WHERE {any}")).await {
        Ok(_) => {
            let found = rows(&client, &format!("SELECT count(*) FROM t WHERE {any}")).await;
            assert_eq!(found, [["3"]]);
        }
        Err(error) => refused(&error),
    }
    for depth in [40, 1_000, 20_000] {
        let sql = format!("SELECT {}7{}", "(".repeat(depth), ")".repeat(depth));
        match client.simple_query(&sql).await {
            Ok(_) => assert_eq!(rows(&client, &sql).await, [["7"]], "depth {depth}"),
            Err(error) if depth > 40 => refused(&error),
            Err(error) => panic!("depth {depth}: {error:?}"),
        }
    }
    assert_eq!(rows(&client, "SELECT id FROM t ORDER BY id LIMIT 1").await, [["0"]], "the session goes on");
    assert_eq!(rows(&server.connect().await, "SELECT count(*) FROM t").await, [["4"]], "the server goes on");
}
