//! A broker on a directory and a port, for trying clients by hand:
//! `cargo run -p mainstem-broker --example broker -- 127.0.0.1:9092 /tmp/broker`.

#[path = "../../mainstem-server/src/kafka_listener.rs"]
mod kafka_listener;

use std::sync::Arc;

use mainstem_broker::{Broker, BrokerConfig};
use mainstem_disk::{RealDisk, SystemClock, SystemRandom};
use mainstem_log::{Log, LogConfig};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let directory = args.next().unwrap_or_else(|| "mainstem-data".to_owned());
    let clock = Arc::new(SystemClock::default());
    let (log, report) = Log::open(Arc::new(RealDisk::new(directory)?), clock.clone(), LogConfig::default())?;
    let threads = log.start();
    let broker = Broker::open(log, BrokerConfig::default(), clock, Arc::new(SystemRandom))?;
    let listener = tokio::net::TcpListener::bind(&address).await?;
    let bound = listener.local_addr()?;
    broker.set_advertised(bound.ip().to_string(), bound.port());
    eprintln!("{bound}, recovered {report:?}");
    let shutdown = CancellationToken::new();
    let running = broker.clone();
    let timed = tokio::spawn(async move { running.run().await });
    let serving = tokio::spawn(kafka_listener::serve(listener, broker.clone(), shutdown.clone()));
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    serving.await?;
    timed.abort();
    eprintln!("{:?}", broker.counters());
    drop(threads);
    Ok(())
}
