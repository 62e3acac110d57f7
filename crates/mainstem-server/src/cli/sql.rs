//! `mainstem sql`: a shell for people, one statement for scripts, files for both.

mod lines;
mod shell;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures::{SinkExt, TryStreamExt};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mainstem sql                              a shell: history, completion with Tab, \\? for help
  mainstem sql -c 'SELECT count(*) FROM t'  one statement, or several divided by ;
  mainstem sql schema.sql views.sql         files, one after the other; ends at the first error
  mainstem sql --csv -c 'SELECT * FROM t'   for other programs
  mainstem sql -c 'COPY t FROM STDIN' < rows  rows from standard input; in a file they follow the statement, up to \\.")]
pub(crate) struct SqlArgs {
    /// Files of statements to run
    files: Vec<PathBuf>,
    /// Statements to run
    #[arg(short, long, value_name = "SQL")]
    command: Option<String>,
    /// Address of the PostgreSQL protocol
    #[arg(long, env = "MAINSTEM_PG", value_name = "HOST:PORT", default_value = "127.0.0.1:4566")]
    pg: String,
    /// Database
    #[arg(short, long, default_value = "dev")]
    database: String,
    /// User
    #[arg(short, long, default_value = "root")]
    user: String,
    /// Write results as CSV with a header line
    #[arg(long)]
    csv: bool,
}

pub(crate) fn run(args: SqlArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = runtime.block_on(connect(&args))?;
    let mut out = io::stdout().lock();
    if let Some(command) = &args.command {
        let executed = runtime.block_on(execute(&client, command, args.csv, Rows::OnStdin, &mut out));
        return executed.map(|()| ExitCode::SUCCESS);
    }
    if args.files.is_empty() && !io::stdin().is_terminal() {
        let text = io::read_to_string(io::stdin()).context("reading standard input")?;
        let executed = runtime.block_on(execute(&client, &text, args.csv, Rows::Inline, &mut out));
        return executed.map(|()| ExitCode::SUCCESS);
    }
    if args.files.is_empty() {
        drop(out);
        return shell::run(&runtime, client, &args);
    }
    for file in &args.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let result = runtime.block_on(execute(&client, &text, args.csv, Rows::Inline, &mut out));
        result.with_context(|| format!("in {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn connect(args: &SqlArgs) -> anyhow::Result<Client> {
    let (host, port) = args.pg.rsplit_once(':').context("--pg: expected HOST:PORT")?;
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse().context("--pg: the port is not a number")?);
    config.dbname(&args.database).user(&args.user).application_name("mainstem sql");
    config.connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await.map_err(|error| {
        anyhow!(
            "no server answers at {} ({}); start one with `mainstem serve`, or name another with --pg",
            args.pg,
            plain(&error)
        )
    })?;
    tokio::spawn(connection);
    Ok(client)
}

/// Where the rows of COPY FROM STDIN are.
#[derive(Clone, Copy, Debug)]
enum Rows {
    /// On standard input, up to its end or a line `\.`
    OnStdin,
    /// After the statement, from the next line to a line `\.`
    Inline,
}

/// Runs statements and writes their results as they come: those between two COPYs as one query, each COPY by itself.
async fn execute(client: &Client, sql: &str, csv: bool, rows: Rows, out: &mut impl Write) -> anyhow::Result<()> {
    let (mut done, mut at) = (0, 0);
    while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
        let statement = lines::first_statement(rest);
        let before = at;
        at += statement.len();
        let Some(copy) = lines::copy(statement) else { continue };
        execute_plain(client, sql.get(done..before).unwrap_or_default(), csv, out).await?;
        match copy {
            lines::Copy::ToStdout => copy_out(client, statement, out).await?,
            lines::Copy::FromStdin => {
                let count = match rows {
                    Rows::Inline => {
                        let mut data = rest.get(statement.len()..).unwrap_or_default().as_bytes();
                        data.skip_until(b'\n')?;
                        let count = copy_in(client, statement, &mut data).await?;
                        at = sql.len() - data.len();
                        count
                    }
                    Rows::OnStdin => {
                        if io::stdin().is_terminal() {
                            eprintln!("rows, one a line; \\. on a line of its own or Ctrl-D ends them");
                        }
                        copy_in(client, statement, &mut io::stdin().lock()).await?
                    }
                };
                write_count(csv, count, out)?;
            }
        }
        done = at;
    }
    execute_plain(client, sql.get(done..).unwrap_or_default(), csv, out).await
}

fn write_count(csv: bool, count: u64, out: &mut impl Write) -> io::Result<()> {
    if csv { Ok(()) } else { writeln!(out, "OK, {count} {}", if count == 1 { "row" } else { "rows" }) }
}

async fn copy_out(client: &Client, statement: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let failed = |error| describe(&error, statement);
    let mut stream = pin!(client.copy_out(statement).await.map_err(failed)?);
    while let Some(lines) = stream.try_next().await.map_err(failed)? {
        out.write_all(&lines)?;
    }
    Ok(out.flush()?)
}

/// Sends lines up to the end of the data or a line `\.`; answers how many rows were written.
async fn copy_in(client: &Client, statement: &str, data: &mut impl BufRead) -> anyhow::Result<u64> {
    const CHUNK_BYTES: usize = 64 << 10;
    let failed = |error| describe(&error, statement);
    // Dropped before its end, it ends the COPY without writing anything.
    let mut sink = pin!(client.copy_in::<_, Bytes>(statement).await.map_err(failed)?);
    let mut chunk = Vec::new();
    let mut is_at_end = false;
    while !is_at_end {
        let start = chunk.len();
        data.read_until(b'\n', &mut chunk).context("reading rows")?;
        let line = chunk.get(start..).unwrap_or_default();
        is_at_end = line.is_empty() || line.trim_ascii_end() == b"\\.";
        if is_at_end {
            chunk.truncate(start);
        }
        if chunk.len() >= CHUNK_BYTES || (is_at_end && !chunk.is_empty()) {
            sink.send(Bytes::from(std::mem::take(&mut chunk))).await.map_err(failed)?;
        }
    }
    sink.as_mut().finish().await.map_err(failed)
}

async fn execute_plain(client: &Client, sql: &str, csv: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if sql.trim().is_empty() {
        return Ok(());
    }
    let messages = client.simple_query(sql).await.map_err(|error| describe(&error, sql))?;
    let mut header: Vec<String> = Vec::new();
    let mut rows: Vec<SimpleQueryRow> = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                header = columns.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => rows.push(row),
            SimpleQueryMessage::CommandComplete(count) => {
                if header.is_empty() {
                    write_count(csv, count, out)?;
                } else if csv {
                    write_csv(&header, &rows, out)?;
                } else {
                    write_table(&header, &rows, out)?;
                }
                header.clear();
                rows.clear();
            }
            _ => {}
        }
    }
    Ok(())
}

fn write_csv(header: &[String], rows: &[SimpleQueryRow], out: &mut impl Write) -> io::Result<()> {
    let quote = |field: &str| {
        if field.is_empty() || field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.to_owned()
        }
    };
    writeln!(out, "{}", header.iter().map(|name| quote(name)).collect::<Vec<_>>().join(","))?;
    for row in rows {
        let fields = (0..row.len()).map(|i| row.get(i).map(quote).unwrap_or_default());
        writeln!(out, "{}", fields.collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

fn write_table(header: &[String], rows: &[SimpleQueryRow], out: &mut impl Write) -> io::Result<()> {
    let cells: Vec<Vec<_>> =
        rows.iter().map(|row| (0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()).collect();
    let count = rows.len();
    writeln!(out, "{}\n({count} {})", crate::table::render(header, &cells), if count == 1 { "row" } else { "rows" })
}

/// An error of the server as psql shows it, with a mark under the place.
fn describe(error: &tokio_postgres::Error, sql: &str) -> anyhow::Error {
    let Some(db) = error.as_db_error() else { return anyhow!("{}", plain(error)) };
    let mut text = format!("{} ({})", db.message(), db.code().code());
    if let Some(tokio_postgres::error::ErrorPosition::Original(position)) = db.position() {
        text.push_str(&lines::point_at(sql, *position as usize));
    }
    for (name, more) in [("detail", db.detail()), ("hint", db.hint())] {
        if let Some(more) = more {
            text.push_str(&format!("\n  {name}: {more}"));
        }
    }
    anyhow!(text)
}

fn plain(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Runs statements for the shell; Ctrl-C cancels them, the shell stays.
async fn execute_until_cancelled(client: &Client, sql: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let cancel = client.cancel_token();
    let mut running = std::pin::pin!(execute_timed(client, sql, out));
    loop {
        tokio::select! {
            result = &mut running => return result,
            // When the server does not hear it, the next Ctrl-C tries again.
            _ = tokio::signal::ctrl_c() => drop(cancel.cancel_query(NoTls).await),
        }
    }
}

/// Runs statements for the shell: result, or error, then how long it took.
async fn execute_timed(client: &Client, sql: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let start = Instant::now();
    match execute(client, sql, false, Rows::OnStdin, out).await {
        Ok(()) => writeln!(out, "{:.1} ms", start.elapsed().as_secs_f64() * 1000.0)?,
        Err(error) if super::is_broken_pipe(&error) || client.is_closed() => return Err(error),
        Err(error) => writeln!(out, "error: {error:#}")?,
    }
    Ok(())
}
