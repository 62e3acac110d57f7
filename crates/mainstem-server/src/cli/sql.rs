//! `mainstem sql`: a shell for people, one statement for scripts, files for both.

mod lines;
mod shell;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mainstem sql                              a shell: history, completion with Tab, \\? for help
  mainstem sql -c 'SELECT count(*) FROM t'  one statement, or several divided by ;
  mainstem sql schema.sql views.sql         files, one after the other; ends at the first error
  mainstem sql --csv -c 'SELECT * FROM t'   for other programs")]
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
        return runtime.block_on(execute(&client, command, args.csv, &mut out)).map(|()| ExitCode::SUCCESS);
    }
    if args.files.is_empty() && !io::stdin().is_terminal() {
        let text = io::read_to_string(io::stdin()).context("reading standard input")?;
        return runtime.block_on(execute(&client, &text, args.csv, &mut out)).map(|()| ExitCode::SUCCESS);
    }
    if args.files.is_empty() {
        drop(out);
        return shell::run(&runtime, client, &args);
    }
    for file in &args.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let result = runtime.block_on(execute(&client, &text, args.csv, &mut out));
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

/// Runs statements and writes their results as they come.
async fn execute(client: &Client, sql: &str, csv: bool, out: &mut impl Write) -> anyhow::Result<()> {
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
                    if !csv {
                        writeln!(out, "OK, {count} {}", if count == 1 { "row" } else { "rows" })?;
                    }
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
    match execute(client, sql, false, out).await {
        Ok(()) => writeln!(out, "{:.1} ms", start.elapsed().as_secs_f64() * 1000.0)?,
        Err(error) if super::is_broken_pipe(&error) || client.is_closed() => return Err(error),
        Err(error) => writeln!(out, "error: {error:#}")?,
    }
    Ok(())
}
