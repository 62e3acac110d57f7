//! The command line: what can be asked for, and who does it.

mod bench;
mod consume;
mod kafka_client;
mod produce;
mod refusal;
mod scrub;
mod sql;
mod topic;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::ServeOptions;

/// Streams, tables and live SQL views over one durable log: a Kafka broker that PostgreSQL clients can query.
#[derive(Debug, Parser)]
#[command(name = "mainstem", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = "Examples:
  mainstem demo                                 see it work on real data
  mainstem serve                                start a server in ./mainstem-data
  echo '{\"n\": 1}' | mainstem produce numbers    write to it
  mainstem consume numbers                      read from it
  mainstem sql -c 'SHOW TABLES'                 ask it")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server until it is told to stop (SIGTERM or Ctrl-C)
    #[command(after_help = "Examples:
  mainstem serve
  mainstem serve --data-dir /var/lib/mainstem --kafka-listen 127.0.0.1:19092
  mainstem serve --kafka-listen 0.0.0.0:9092 --allow-unauthenticated --kafka-advertise host.docker.internal:9092
  MAINSTEM_DATA_DIR=/data mainstem serve --config mainstem.toml")]
    Serve {
        /// TOML file with the same keys as the flags, without the dashes in front
        #[arg(long, env = "MAINSTEM_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<ServeOptions>,
    },
    /// Replay a month of real flights and watch the views follow
    #[command(after_help = "Examples:
  mainstem demo                    about 20 seconds, with live tables
  mainstem demo --once             at full speed; exits 0 if every view equals its batch query
  mainstem demo --data-dir flights keep the data and go on later with `mainstem serve --data-dir flights`")]
    Demo(crate::demo::DemoArgs),
    /// Create, list, describe and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Write lines of standard input to a topic, one record a line
    Produce(produce::ProduceArgs),
    /// Write records of a topic to standard output, one line a record
    Consume(consume::ConsumeArgs),
    /// Ask in SQL: a shell, one statement (-c) or files (-f)
    Sql(sql::SqlArgs),
    /// Read all that is stored, and say what is damaged and what that means
    Scrub(scrub::ScrubArgs),
    /// Take figures of a running server
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  mainstem completions bash > /etc/bash_completion.d/mainstem")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command. Errors are for people: they say what to do.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Serve { config, options } => crate::server::run(options.with_file(config.as_deref())?),
        Command::Demo(args) => crate::demo::run(args),
        Command::Topic(command) => topic::run(command),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Scrub(args) => scrub::run(&args),
        Command::Bench(command) => bench::run(command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "mainstem", &mut script);
            io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whether the reader of our output went away: `mainstem consume t | head` is not an error.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
