//! SUBSCRIBE and cursors: what was given adds up to the content at every version that was said to be complete.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use mainstem_engine::Cut;
use mainstem_session::{Response, RowEncoder, RowStream};

use crate::database::{Client, Database};

/// Rows as text, each as often as it is there.
type Content = BTreeMap<String, i64>;

/// Random numbers that a seed gives again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A subscription with PROGRESS, and what it adds up to.
struct Follower {
    name: String,
    stream: RowStream,
    encoder: RowEncoder,
    columns: usize,
    content: Content,
    /// Everything below was given.
    progress: u64,
    versions: usize,
    /// Rows by key for ENVELOPE UPSERT.
    is_upsert: bool,
}

impl Follower {
    async fn new(client: &mut Client, sql: &str) -> Follower {
        let statement = client.session.parse(sql).expect("a statement").remove(0);
        let described = client.session.describe(&statement, &[]).await.expect("described").schema.expect("rows");
        let response = client.session.execute(&statement, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let Response::Rows { schema, stream, .. } = response else { panic!("{sql} gives no rows") };
        assert_eq!(described, schema, "{sql}");
        let encoder = RowEncoder::new(&schema, &[]).expect("types of SQL");
        Follower {
            name: sql.to_owned(),
            stream,
            encoder,
            columns: schema.fields().len(),
            content: Content::new(),
            progress: 0,
            versions: 0,
            is_upsert: sql.contains("UPSERT"),
        }
    }

    /// Reads until all up to the cut was given, and compares what it adds up to with what is known of versions.
    async fn read_to(&mut self, cut: Cut, known: &BTreeMap<u64, Content>) {
        if self.progress > cut.0 {
            return;
        }
        let mut version: Vec<Vec<Option<String>>> = Vec::new();
        let mut compared = 0;
        while self.progress <= cut.0 {
            let batch = tokio::time::timeout(Duration::from_secs(20), self.stream.next()).await;
            let batch = batch.unwrap_or_else(|_| panic!("{}: nothing comes beyond {}", self.name, self.progress));
            let batch = batch.expect("it has no end").unwrap_or_else(|error| panic!("{}: {error:?}", self.name));
            let cells = self.encoder.cells(&batch).expect("cells");
            for row in 0..cells.rows() {
                let row: Vec<_> = (0..self.columns).map(|column| cells.text(&self.encoder, row, column)).collect();
                let timestamp: u64 = row[0].as_ref().expect("a timestamp").parse().expect("a number");
                assert!(timestamp >= self.progress, "{}: {timestamp} after {}", self.name, self.progress);
                if row[1].as_deref() == Some("f") {
                    version.push(row);
                    continue;
                }
                assert!(timestamp > self.progress && row[2..].iter().all(Option::is_none));
                assert!(version.iter().all(|row| row[0] == version[0][0]), "{}: parts of two versions", self.name);
                version.drain(..).for_each(|row| self.apply(&row));
                (self.progress, self.versions) = (timestamp, self.versions + 1);
                if let Some(expected) = known.get(&(timestamp - 1)) {
                    assert_eq!(&self.content, expected, "{} below {timestamp}", self.name);
                    compared += 1;
                }
            }
        }
        assert!(compared > 0, "{}: nothing was compared", self.name);
    }

    fn apply(&mut self, row: &[Option<String>]) {
        let text = |columns: &[Option<String>]| {
            columns.iter().map(|value| value.clone().unwrap_or("null".into())).collect::<Vec<_>>().join("|")
        };
        let change = row[2].as_deref().expect("a diff or a state");
        if !self.is_upsert {
            let count = self.content.entry(text(&row[3..])).or_default();
            *count += change.parse::<i64>().expect("a number");
            assert!(*count >= 0, "{}: {row:?} leaves {count}", self.name);
            self.content.retain(|_, count| *count != 0);
            return;
        }
        let key = format!("{}|", text(&row[3..4]));
        self.content.retain(|row, _| !row.starts_with(&key));
        match change {
            "upsert" => drop(self.content.insert(text(&row[3..]), 1)),
            "delete" => assert!(row[4..].iter().all(Option::is_none)),
            other => panic!("{}: {other}", self.name),
        }
    }
}

async fn content(client: &mut Client, query: &str) -> Content {
    let mut content = Content::new();
    for line in client.run(query).await.lines() {
        *content.entry(line.to_owned()).or_default() += 1;
    }
    content
}

/// Nothing is left of subscriptions that nobody reads any more.
async fn until_free(database: &Database) {
    let free = async {
        while database.shared.engine().stats().subscriptions > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.expect("all subscriptions are freed");
}

async fn make_relations(client: &mut Client) {
    client.run("CREATE TABLE t (id INT PRIMARY KEY, g INT, n BIGINT)").await;
    client.run("CREATE TABLE loose (g INT, s VARCHAR)").await;
    client.run("CREATE MATERIALIZED VIEW v AS SELECT g, sum(n) AS n, count(*) AS c FROM t GROUP BY g").await;
    client.run("CREATE MATERIALIZED VIEW j AS SELECT t.id, loose.s FROM t JOIN loose ON t.g = loose.g").await;
    client.run("CREATE VIEW plain AS SELECT id, n FROM t WHERE n > 50").await;
    client.run("INSERT INTO t SELECT i, i % 5, i FROM generate_series(1, 30) AS s(i)").await;
    client.run("INSERT INTO loose SELECT i % 5, 'x' FROM generate_series(1, 10) AS s(i)").await;
}

fn change(random: &mut Random) -> String {
    let (id, g, n) = (random.below(60), random.below(5), random.below(100));
    match random.below(7) {
        0 | 1 => format!(
            "INSERT INTO t VALUES ({id}, {g}, {n}) ON CONFLICT (id) DO UPDATE SET g = excluded.g, n = excluded.n"
        ),
        2 => format!("UPDATE t SET n = {n}, g = (g + 1) % 5 WHERE id % 10 = {}", id % 10),
        3 => format!("DELETE FROM t WHERE id = {id}"),
        4 => format!("INSERT INTO loose VALUES ({g}, 'y'), ({g}, 'y')"),
        5 => format!("DELETE FROM loose WHERE g = {g} AND s = 'y'"),
        _ => format!("BEGIN; UPDATE t SET n = n + 1 WHERE g = {g}; DELETE FROM t WHERE id = {id}; COMMIT"),
    }
}

/// What is followed, and the query that tells its content.
const FOLLOWED: [(&str, &str); 8] = [
    ("SUBSCRIBE t WITH (PROGRESS)", "SELECT * FROM t"),
    ("SUBSCRIBE loose WITH (PROGRESS)", "SELECT * FROM loose"),
    ("SUBSCRIBE TO v WITH (PROGRESS)", "SELECT * FROM v"),
    ("SUBSCRIBE j WITH (PROGRESS = true)", "SELECT * FROM j"),
    ("SUBSCRIBE plain WITH (PROGRESS)", "SELECT * FROM plain"),
    (
        "SUBSCRIBE (SELECT t.g, max(v.n) AS m, count(*) FROM t JOIN v ON t.g = v.g GROUP BY t.g) WITH (PROGRESS)",
        "SELECT t.g, max(v.n) AS m, count(*) FROM t JOIN v ON t.g = v.g GROUP BY t.g",
    ),
    ("SUBSCRIBE t ENVELOPE UPSERT (KEY (id)) WITH (PROGRESS)", "SELECT * FROM t"),
    ("SUBSCRIBE v WITH (PROGRESS) ENVELOPE UPSERT (KEY (g))", "SELECT * FROM v"),
];

#[tokio::test(flavor = "multi_thread")]
async fn changes_add_up_to_the_content_at_every_version() {
    for seed in 1..=5 {
        let (database, mut random) = (Database::new(), Random(seed));
        let mut client = database.connect();
        make_relations(&mut client).await;
        let mut sessions: Vec<Client> = FOLLOWED.iter().map(|_| database.connect()).collect();
        let mut followers = Vec::new();
        for ((subscribe, _), session) in FOLLOWED.iter().zip(&mut sessions) {
            followers.push(Follower::new(session, subscribe).await);
        }
        // One that sees no snapshot has it from elsewhere.
        let mut late = Follower::new(&mut sessions[2], "SUBSCRIBE v WITH (SNAPSHOT = false, PROGRESS)").await;
        late.content = content(&mut client, "SELECT * FROM v").await;
        let mut known: Vec<BTreeMap<u64, Content>> = vec![BTreeMap::new(); FOLLOWED.len()];
        for round in 0..40 {
            client.run(&change(&mut random)).await;
            let mut contents = Vec::new();
            for (_, query) in FOLLOWED {
                contents.push(content(&mut client, query).await);
            }
            let cut = database.shared.engine().published();
            contents.into_iter().zip(&mut known).for_each(|(content, known)| drop(known.insert(cut.0, content)));
            // Some are read at once, all of them at times.
            for (place, follower) in followers.iter_mut().enumerate() {
                if place % 2 == 0 || round % 13 == 0 {
                    follower.read_to(cut, &known[place]).await;
                }
            }
        }
        let cut = database.shared.engine().published();
        for (follower, known) in followers.iter_mut().zip(&known) {
            follower.read_to(cut, known).await;
        }
        late.read_to(cut, &known[2]).await;
        assert_eq!(database.shared.engine().stats().subscriptions, 9);
        drop((followers, late));
        until_free(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_loses_nothing_and_holds_little() {
    let database = Database::new();
    let (mut client, mut session) = (database.connect(), database.connect());
    make_relations(&mut client).await;
    let mut follower = Follower::new(&mut session, "SUBSCRIBE t WITH (PROGRESS)").await;
    let mut known = BTreeMap::new();
    for _ in 0..400 {
        // Views of other lanes are up to there as well, so that what is published is what is read.
        client.run("UPDATE t SET n = n + 1; FLUSH").await;
        let content = content(&mut client, "SELECT * FROM t").await;
        // Of the table; views may be behind it.
        known.insert(database.shared.engine().front().0, content);
    }
    follower.read_to(database.shared.engine().front(), &known).await;
    assert!(follower.versions < 100, "{} versions were kept for it", follower.versions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_followed_from_its_first_record_or_from_now() {
    let database = Database::new();
    let mut client = database.connect();
    let topic = database.create_topic("events").await;
    let records = |from: usize| -> Vec<bytes::Bytes> {
        (from..from + 3).map(|a| format!("{{\"a\": {a}}}").into_bytes().into()).collect()
    };
    client.run("CREATE SOURCE s (a INT) WITH (topic='events') FORMAT PLAIN ENCODE JSON").await;
    database.log.produce(topic, 0, records(0));
    client.run("FLUSH").await;
    let mut sessions = [database.connect(), database.connect(), database.connect()];
    let mut whole = Follower::new(&mut sessions[0], "SUBSCRIBE s WITH (PROGRESS)").await;
    let mut new = Follower::new(&mut sessions[1], "SUBSCRIBE s WITH (SNAPSHOT = false, PROGRESS)").await;
    let mut sums = Follower::new(&mut sessions[2], "SUBSCRIBE (SELECT sum(a) FROM s) WITH (PROGRESS)").await;
    let rows = |rows: &[i64]| rows.iter().map(|row| (row.to_string(), 1)).collect::<Content>();
    let now = database.shared.engine().published();
    for (follower, expected) in [(&mut whole, rows(&[0, 1, 2])), (&mut new, rows(&[])), (&mut sums, rows(&[3]))] {
        follower.read_to(now, &BTreeMap::from([(now.0, expected)])).await;
    }
    database.log.produce(topic, 0, records(3));
    client.run("FLUSH").await;
    let now = database.shared.engine().published();
    let all = rows(&[0, 1, 2, 3, 4, 5]);
    for (follower, expected) in [(&mut whole, all), (&mut new, rows(&[3, 4, 5])), (&mut sums, rows(&[15]))] {
        follower.read_to(now, &BTreeMap::from([(now.0, expected)])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_belongs_to_its_transaction() {
    let database = Database::new();
    let mut client = database.connect();
    assert_eq!(client.fails("DECLARE c CURSOR FOR SELECT 1").await.0, "25P01");
    client.run("BEGIN; DECLARE c CURSOR FOR SELECT i FROM generate_series(1, 20) AS s(i) ORDER BY i").await;
    assert_eq!(client.run("FETCH 2 FROM c").await, "1\n2");
    assert_eq!(client.run("MOVE FORWARD 3 IN c").await, "MOVE 3");
    client.run("SAVEPOINT s; DECLARE d CURSOR FOR SELECT 1").await;
    assert_eq!(client.fails("DECLARE c CURSOR FOR SELECT 2").await.0, "42P03");
    client.run("ROLLBACK TO s").await;
    assert_eq!(client.run("FETCH c").await, "6");
    assert_eq!(client.run("MOVE 10 c; FETCH ALL c").await, "17\n18\n19\n20");
    assert_eq!(client.run("FETCH 5 c").await, "");
    assert_eq!(client.fails("FETCH d").await.0, "34000");
    client.run("ROLLBACK").await;
    assert_eq!(client.fails("FETCH c").await.0, "34000");
    // Its rows are those of the transaction's snapshot, and its own writes.
    client.run("CREATE TABLE t (id INT PRIMARY KEY); BEGIN; INSERT INTO t VALUES (1)").await;
    client.run("DECLARE c CURSOR FOR SELECT id FROM t").await;
    database.connect().run("INSERT INTO t VALUES (2)").await;
    assert_eq!(client.run("FETCH ALL c; ").await, "1");
    assert_eq!(client.fails("SUBSCRIBE t").await.0, "0A000");
    client.run("ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_over_changes_waits_and_loses_nothing_when_it_is_cancelled() {
    let database = Database::new();
    let (mut client, mut writer) = (database.connect(), database.connect());
    client.run("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 0), (2, 0), (3, 0)").await;
    client.run("BEGIN; DECLARE c CURSOR FOR SUBSCRIBE t ENVELOPE UPSERT (KEY (id))").await;
    let rows =
        |answer: &str| answer.lines().map(|l| l.split_once('|').expect("columns").1.to_owned()).collect::<Vec<_>>();
    assert_eq!(rows(&client.run("FETCH 2 c").await), ["upsert|1|0", "upsert|2|0"]);
    assert_eq!(rows(&client.run("FETCH ALL c").await), ["upsert|3|0"]);
    assert_eq!(client.run("FETCH ALL c WITH (timeout = '50ms')").await, "");
    let cancelled = tokio::time::timeout(Duration::from_millis(100), client.run("FETCH 5 c WITH (timeout = '1h')"));
    writer.run("DELETE FROM t WHERE id = 2").await;
    cancelled.await.expect_err("there are fewer than five rows");
    writer.run("UPDATE t SET n = 7 WHERE id = 3").await;
    assert_eq!(rows(&client.run("FETCH c").await), ["delete|2|null"]);
    assert_eq!(rows(&client.run("FETCH c").await), ["upsert|3|7"]);
    writer.run("DROP TABLE t").await;
    assert_eq!(client.fails("FETCH c").await, ("42P01".to_owned(), "relation \"t\" was dropped".to_owned()));
    client.run("ROLLBACK").await;
    client.run("CREATE TABLE u (id INT PRIMARY KEY); BEGIN; DECLARE c CURSOR FOR SUBSCRIBE u; COMMIT").await;
    until_free(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_view_is_an_error() {
    let database = Database::new();
    let (mut client, mut session) = (database.connect(), database.connect());
    client.run("CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 1)").await;
    client.run("CREATE MATERIALIZED VIEW v AS SELECT 10 / n AS q FROM t").await;
    let mut follower = Follower::new(&mut session, "SUBSCRIBE v WITH (PROGRESS)").await;
    let now = database.shared.engine().published();
    follower.read_to(now, &BTreeMap::from([(now.0, Content::from([("10".to_owned(), 1)]))])).await;
    client.run("UPDATE t SET n = 0").await;
    let error = loop {
        match follower.stream.next().await.expect("it ends with an error") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlstate, "22012");
    assert_eq!(client.fails("SUBSCRIBE v").await.0, "22012");
    assert_eq!(client.fails("SUBSCRIBE (SELECT 10 / n FROM t)").await.0, "22012");
    assert_eq!(client.fails("SUBSCRIBE (SELECT random() FROM t)").await.0, "42P17");
    assert_eq!(client.fails("SUBSCRIBE nothing").await.0, "42P01");
    assert_eq!(client.fails("SUBSCRIBE pg_catalog.pg_class").await.0, "0A000");
    assert_eq!(client.fails("SUBSCRIBE t ENVELOPE UPSERT (KEY (x))").await.0, "42703");
}
