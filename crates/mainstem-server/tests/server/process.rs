//! Starts and ends the binary. Ends only what it started, by its id.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use tokio_postgres::{Client, NoTls};

/// A command of the binary under test.
pub(crate) fn mainstem(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstem"));
    command.args(args).env_remove("MAINSTEM_CONFIG").stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn run(args: &[&str]) -> Output {
    mainstem(args).output().expect("the binary starts")
}

/// Standard output as text.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server on free ports.
pub(crate) struct Server {
    child: Child,
    pub(crate) kafka: String,
    pub(crate) pg: String,
}

impl Server {
    /// Starts on a directory and waits until it says that it is ready.
    pub(crate) fn start(dir: &Path) -> Server {
        Server::start_with(dir, &[])
    }

    pub(crate) fn start_with(dir: &Path, more: &[&str]) -> Server {
        let dir = dir.to_str().expect("UTF-8 path");
        let free = "127.0.0.1:0";
        let mut args = vec!["serve", "--data-dir", dir];
        args.extend(["--kafka-listen", free, "--pg-listen", free, "--http-listen", free]);
        args.extend(more);
        let mut child = mainstem(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        if line.is_empty() {
            let mut error = String::new();
            child.stderr.take().expect("piped").read_to_string(&mut error).expect("readable");
            panic!("the server did not start: {error}");
        }
        let word = |after: &str| {
            let rest = line.split(after).nth(1).unwrap_or_else(|| panic!("no {after:?} in {line:?}"));
            rest.split([',', '/', '\n']).next().unwrap_or_default().trim().to_owned()
        };
        let (kafka, pg) = (word("kafka "), word("postgresql "));
        Server { child, kafka, pg }
    }

    /// SIGTERM, and its exit status.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        self.child.wait().expect("it ends")
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// A PostgreSQL connection.
    pub(crate) async fn connect(&self) -> Client {
        let (host, port) = self.pg.rsplit_once(':').expect("host:port");
        let config = format!("host={host} port={port} user=root dbname=dev");
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connects");
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rows of a simple query, cells as text, null as `∅`.
pub(crate) async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).unwrap_or("∅").to_owned()).collect())
        }
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}
