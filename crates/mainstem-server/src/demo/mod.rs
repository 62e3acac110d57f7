//! `mainstem demo`: a server, a month of real flights sent to it over the Kafka protocol, and views that follow.
//!
//! At the end each view is compared, row by row, with what DataFusion's stock plan makes of the log itself: no operator
//! and no state is shared between the two.

mod events;
mod replay;
mod screen;

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio_postgres::{Client, NoTls};

use crate::config::{Config, ServeOptions};
use crate::server::{Comparison, Server, stop_signal};

const SCHEMA: &str = include_str!("schema.sql");
/// The shell's status of what Ctrl-C ends.
const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Replay at full speed, compare, and exit: with status 1 if any view differs
    #[arg(long)]
    once: bool,
    /// Keep the data here; a temporary directory otherwise. The directory has to be new or empty
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Seconds that the replay takes on a terminal
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u64,
    /// Corrupt one row of a view before comparing, to see the comparison fail
    #[arg(long, hide = true)]
    corrupt_one_row: bool,
}

pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(demo(&args));
    // After an interruption the replay still sends, on a thread of its own: nobody waits for it.
    runtime.shutdown_background();
    result
}

async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let temporary;
    let dir = match &args.data_dir {
        Some(dir) => {
            if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
                bail!(
                    "{} is not empty; name a new directory, or look on with `mainstem serve --data-dir {0}`",
                    dir.display()
                );
            }
            dir.clone()
        }
        None => {
            temporary = tempfile::Builder::new().prefix("mainstem-demo-").tempdir()?;
            temporary.path().to_owned()
        }
    };
    // From the first poll on, a signal ends the demo in good order: the temporary directory goes.
    let mut stopped = pin!(stop_signal());
    if let Poll::Ready(signal) = futures::poll!(&mut stopped) {
        signal?;
    }
    let server = Server::start(config(dir)?).await?;
    let result = tokio::select! {
        result = replay_and_compare(args, &server) => Some(result),
        signal = &mut stopped => { signal?; None }
    };
    let equal = match result {
        Some(Ok(equal)) => equal,
        None => {
            server.stop().await?;
            eprintln!("\nmainstem: interrupted");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Some(Err(error)) => {
            server.stop().await?;
            return Err(error);
        }
    };
    if !args.once && screen::is_terminal() {
        screen::look_on(&server, args.data_dir.as_deref());
        stopped.await?;
    }
    server.stop().await?;
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The default ports, or free ones where those are taken.
fn config(dir: PathBuf) -> anyhow::Result<Config> {
    let mut config = ServeOptions { data_dir: Some(dir), ..ServeOptions::default() }.resolve()?;
    for address in [&mut config.kafka_listen, &mut config.pg_listen, &mut config.http_listen] {
        if std::net::TcpListener::bind(*address).is_err() {
            address.set_port(0);
        }
    }
    Ok(config)
}

async fn replay_and_compare(args: &DemoArgs, server: &Server) -> anyhow::Result<bool> {
    let addresses = server.addresses();
    println!("{addresses}");
    let client = connect(server).await?;
    let events = events::events()?;
    replay::create_topics(addresses.kafka, &["flights", "weather"]).await?;
    client.batch_execute(SCHEMA).await.context("creating the demo's sources and views")?;
    load_tables(&client).await?;
    let pace = (!args.once && screen::is_terminal()).then(|| Duration::from_secs(args.seconds));
    let start = Instant::now();
    let progress = replay::Progress::new(events.len());
    let replaying = replay::start(addresses.kafka, events, pace, progress.clone());
    let drawn = screen::follow(&client, &progress, &replaying, pace.is_some()).await?;
    replaying.await.context("the replay ended early")??;
    screen::settle(&client, drawn).await?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{} events in {seconds:.1} s, {:.0} a second", progress.total(), progress.total() as f64 / seconds);
    if args.corrupt_one_row {
        server.corrupt_one_row("delay_by_airline")?;
    }
    compare(server).await
}

async fn connect(server: &Server) -> anyhow::Result<Client> {
    let address = server.addresses().pg;
    let config = format!("host={} port={} user=root dbname=dev", address.ip(), address.port());
    let (client, connection) =
        tokio_postgres::connect(&config, NoTls).await.context("connecting over PostgreSQL's protocol")?;
    tokio::spawn(connection);
    Ok(client)
}

async fn load_tables(client: &Client) -> anyhow::Result<()> {
    let quoted = |field: &Option<String>| match field {
        Some(text) => format!("'{}'", text.replace('\'', "''")),
        None => "NULL".to_owned(),
    };
    let row = |fields: &[Option<String>]| format!("({})", fields.iter().map(quoted).collect::<Vec<_>>().join(", "));
    let airlines: Vec<_> = events::airlines()?.iter().map(|fields| row(fields)).collect();
    client.batch_execute(&format!("INSERT INTO airlines VALUES {}", airlines.join(", "))).await?;
    for chunk in events::airports()?.chunks(500) {
        let airports: Vec<_> = chunk.iter().map(|fields| row(fields)).collect();
        client.batch_execute(&format!("INSERT INTO airports VALUES {}", airports.join(", "))).await?;
    }
    Ok(())
}

/// Prints one line per view; whether all are equal.
async fn compare(server: &Server) -> anyhow::Result<bool> {
    println!("\ncomparing each view with DataFusion's stock plan over the log:");
    let mut all_equal = true;
    for comparison in server.compare_views().await? {
        let Comparison { view, rows, missing, extra } = &comparison;
        if missing.is_empty() && extra.is_empty() {
            println!("  {view:<20} {rows:>6} rows  equal");
            continue;
        }
        all_equal = false;
        println!("  {view:<20} {rows:>6} rows  DIFFERS: {} missing, {} extra", missing.len(), extra.len());
        for (what, rows) in [("missing", missing), ("extra", extra)] {
            for row in rows.iter().take(3) {
                println!("    {what}: {row}");
            }
        }
    }
    println!("{}", if all_equal { "all views are equal" } else { "some views DIFFER" });
    Ok(all_equal)
}
