//! The command line against a running server, in pipes as its users put it.

use std::io::Write;
use std::process::Stdio;

use crate::process::{Server, mainstem, run, text};

#[test]
fn lines_go_in_and_come_out_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    let at = ["-b", server.kafka.as_str()];
    let create = run(&["topic", "create", "numbers", "-p", "3", at[0], at[1]]);
    assert!(create.status.success(), "{create:?}");
    let again = run(&["topic", "create", "numbers", at[0], at[1]]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("numbers"), "{again:?}");

    let lines: String = (0..10_000).map(|n| format!("key{n}:{{\"n\": {n}}}\n")).collect();
    let mut produce = mainstem(&["produce", "numbers", "-k", ":", at[0], at[1]]);
    let mut produce = produce.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    produce.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads all of its input");
    let produced = produce.wait_with_output().expect("it ends");
    assert!(produced.status.success(), "{produced:?}");
    assert!(String::from_utf8_lossy(&produced.stderr).contains("10000 records written to numbers"), "{produced:?}");

    let consumed = run(&["consume", "numbers", "--exit", "-k", ":", at[0], at[1]]);
    let mut found: Vec<_> = text(&consumed).lines().map(str::to_owned).collect();
    let mut expected: Vec<_> = lines.lines().map(str::to_owned).collect();
    found.sort();
    expected.sort();
    assert!(consumed.status.success() && found == expected, "{} lines of {}", found.len(), expected.len());

    let listed = text(&run(&["topic", "list", at[0], at[1]]));
    assert!(
        listed.lines().any(|line| line.contains("numbers") && line.contains('3') && line.contains("10000")),
        "{listed}"
    );
    let described = text(&run(&["topic", "describe", "numbers", at[0], at[1]]));
    assert!(described.contains("retention.ms"), "{described}");
    let deleted = run(&["topic", "delete", "numbers", at[0], at[1]]);
    assert!(deleted.status.success(), "{deleted:?}");
    let gone = run(&["consume", "numbers", at[0], at[1]]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("numbers does not exist"), "{gone:?}");
    assert!(server.stop().success());
}

#[test]
fn sql_takes_statements_and_files_and_points_at_errors() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    let at = ["--pg", server.pg.as_str()];
    let file = dir.path().join("schema.sql");
    std::fs::write(
        &file,
        "CREATE TABLE t (id int PRIMARY KEY, v varchar);\nINSERT INTO t VALUES (1, 'a'), (2, NULL);\n",
    )
    .expect("write");
    let made = run(&["sql", at[0], at[1], file.to_str().expect("UTF-8")]);
    assert!(made.status.success(), "{made:?}");
    let csv = run(&["sql", at[0], at[1], "--csv", "-c", "SELECT id, v FROM t ORDER BY id"]);
    assert_eq!(text(&csv), "id,v\n1,a\n2,\n");
    let table = text(&run(&["sql", at[0], at[1], "-c", "SELECT count(*) AS n FROM t"]));
    assert!(table.contains("(1 row)"), "{table}");
    let wrong = run(&["sql", at[0], at[1], "-c", "SELECT nothing FROM t"]);
    let error = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && error.contains("nothing") && error.contains("42703"), "{error}");
    assert!(server.stop().success());
}

#[test]
fn what_cannot_work_is_said_with_what_to_do() {
    let nobody = run(&["topic", "list", "-b", "127.0.0.1:1"]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("mainstem serve"), "{nobody:?}");
    let dir = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(dir.path());
    let data = dir.path().to_str().expect("UTF-8");
    let free = "127.0.0.1:0";
    let second =
        run(&["serve", "--data-dir", data, "--kafka-listen", free, "--pg-listen", free, "--http-listen", free]);
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && error.contains("in use by another process"), "{error}");
    let other = tempfile::tempdir().expect("temporary directory");
    let other = other.path().to_str().expect("UTF-8");
    let taken = run(&[
        "serve",
        "--data-dir",
        other,
        "--kafka-listen",
        &server.kafka,
        "--pg-listen",
        free,
        "--http-listen",
        free,
    ]);
    let error = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success() && error.contains("--kafka-listen"), "{error}");
    for command in ["serve", "demo", "topic", "produce", "consume", "sql"] {
        let help = run(&[command, "--help"]);
        assert!(help.status.success(), "{help:?}");
        assert!(command == "topic" || text(&help).contains("Examples:"), "{command} has no examples");
    }
    assert!(server.stop().success());
}
