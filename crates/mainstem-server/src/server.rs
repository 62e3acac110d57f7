//! Start and stop of a server: what is opened in which order, who listens, what ends it.

mod definitions;
mod space;
mod startup;
mod ticks;

use std::fmt;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use mainstem_broker::Broker;
use mainstem_catalog::RelationKind;
use mainstem_disk::LockedDir;
use mainstem_engine::Engine;
use mainstem_log::{CommitThread, Log};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use startup::stop_signal;

use crate::config::{Config, ServeOptions};
use crate::{http, kafka_listener, pg_listener};

/// Where the doors are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) kafka: SocketAddr,
    pub(crate) pg: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready: kafka {}, postgresql {}, http http://{}/", self.kafka, self.pg, self.http)
    }
}

/// A server that runs in this process.
pub(crate) struct Server {
    addresses: Addresses,
    broker: Broker,
    engine: Engine,
    log: Log,
    commit_thread: CommitThread,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    _lock: LockedDir,
}

/// A view beside what the stock plan makes of the log.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) view: String,
    pub(crate) rows: u64,
    pub(crate) missing: Vec<String>,
    pub(crate) extra: Vec<String>,
}

/// `mainstem serve`: until SIGTERM or Ctrl-C (a clean stop), or until the log cannot go on (an error).
pub(crate) fn run(options: ServeOptions) -> anyhow::Result<ExitCode> {
    startup::log_to_stderr(options.log_level.as_deref().unwrap_or("warn"))?;
    let config = options.resolve()?;
    let runtime = startup::runtime()?;
    runtime.block_on(async {
        let server = Server::start(config).await?;
        println!("mainstem {} is {}", env!("CARGO_PKG_VERSION"), server.addresses);
        let stopped = tokio::select! {
            signal = stop_signal() => { signal?; None }
            reason = server.failed() => Some(reason),
        };
        match stopped {
            None => server.stop().await.map(|()| ExitCode::SUCCESS),
            Some(reason) => bail!("{reason}"),
        }
    })
}

impl Server {
    /// Opens the data directory and the doors. Fails, with what to do about it, before anything is changed if another
    /// process has the directory or a port.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Server> {
        let lock = startup::lock(&config.data_dir)?;
        let kafka = bind("kafka-listen", config.kafka_listen).await?;
        let pg = bind("pg-listen", config.pg_listen).await?;
        let http = bind("http-listen", config.http_listen).await?;
        let addresses = Addresses { kafka: kafka.local_addr()?, pg: pg.local_addr()?, http: http.local_addr()? };
        let opened = tokio::task::spawn_blocking({
            let config = config.clone();
            move || startup::open(&config)
        });
        let startup::Opened { log, commit_thread, broker, engine, tables } = opened.await??;
        match &config.kafka_advertise {
            Some((host, port)) => broker.set_advertised(host.clone(), *port),
            None => broker.set_advertised(addresses.kafka.ip().to_string(), addresses.kafka.port()),
        }
        let shutdown = CancellationToken::new();
        let catalogs = definitions::BrokerCatalogs::new(broker.clone(), engine.clone());
        let shared = startup::shared(&config, &engine, tables, catalogs);
        shared.resume_replacements();
        let state = http::State { broker: broker.clone(), engine: engine.clone(), addresses };
        let tasks = vec![
            tokio::spawn(kafka_listener::serve(kafka, broker.clone(), shutdown.clone())),
            tokio::spawn(pg_listener::serve(pg, shared, shutdown.clone())),
            tokio::spawn(http::serve(http, state, shutdown.clone())),
            tokio::spawn(ticks::run(engine.clone(), config.tick, shutdown.clone())),
            tokio::spawn(space::watch(log.clone(), config.data_dir.clone(), shutdown.clone())),
            tokio::spawn({
                let (broker, shutdown) = (broker.clone(), shutdown.clone());
                async move {
                    tokio::select! { () = broker.run() => {}, () = shutdown.cancelled() => {} }
                }
            }),
        ];
        Ok(Server { addresses, broker, engine, log, commit_thread, shutdown, tasks, _lock: lock })
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Returns when the log or the engine has stopped by itself, with the reason.
    async fn failed(&self) -> String {
        loop {
            if let Some(reason) = self.log.failure() {
                return reason;
            }
            if self.engine.is_stopped() {
                return "the views have stopped, see the log above; start again, nothing acknowledged is lost"
                    .to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Closes the doors, answers what is under way, writes checkpoints.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.context("a listener ended badly")?;
        }
        let (engine, log, commit_thread) = (self.engine, self.log, self.commit_thread);
        drop(self.broker);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = engine.checkpoint_now() {
                tracing::warn!(%error, "no checkpoint at the stop; the next start replays more");
            }
            engine.stop();
            log.stop();
            drop(commit_thread);
        })
        .await?;
        Ok(())
    }

    /// Each materialized view beside the stock plan over the log, at one cut.
    pub(crate) async fn compare_views(&self) -> anyhow::Result<Vec<Comparison>> {
        let catalog = self.broker.catalog();
        let mut comparisons = Vec::new();
        for relation in catalog.named_relations().filter(|r| matches!(r.kind, RelationKind::MaterializedView(_))) {
            let found = mainstem_engine::batch::compare_view(&self.engine, &catalog, relation.id)
                .await
                .with_context(|| format!("comparing {}", relation.name))?;
            let (rows, missing, extra) = (found.rows, found.missing, found.extra);
            comparisons.push(Comparison { view: relation.name.clone(), rows, missing, extra });
        }
        Ok(comparisons)
    }

    /// Falsifies one row of what a view shows, so that a comparison has something to find.
    pub(crate) fn corrupt_one_row(&self, view: &str) -> anyhow::Result<()> {
        let catalog = self.broker.catalog();
        let relation = catalog.relation_named("public", view).with_context(|| format!("no view {view}"))?;
        Ok(self.engine.corrupt_one_row(relation.id)?)
    }
}

async fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; stop what listens there, or choose another address with --{setting}")
    })
}
