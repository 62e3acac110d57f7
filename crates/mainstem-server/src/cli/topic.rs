//! `mainstem topic`: create, list, describe, delete.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Subcommand;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::kafka_client::{Bootstrap, PATIENCE};
use super::refusal;

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create topics
    #[command(after_help = "Examples:
  mainstem topic create orders
  mainstem topic create orders --partitions 12 --config retention.ms=86400000")]
    Create {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
        /// Number of partitions
        #[arg(short, long, default_value_t = 1)]
        partitions: i32,
        /// A setting, `name=value`; can be repeated
        #[arg(short, long = "config", value_name = "NAME=VALUE")]
        configs: Vec<String>,
        #[command(flatten)]
        broker: Bootstrap,
    },
    /// List topics with their partitions and records
    List {
        /// Show internal topics too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        broker: Bootstrap,
    },
    /// Show a topic's partitions, offsets and settings
    Describe {
        /// Its name
        name: String,
        #[command(flatten)]
        broker: Bootstrap,
    },
    /// Delete topics and all their records
    Delete {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        broker: Bootstrap,
    },
}

pub(crate) fn run(command: TopicCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        TopicCommand::Create { names, partitions, configs, broker } => {
            runtime.block_on(create(&names, partitions, &configs, &broker))
        }
        TopicCommand::List { all, broker } => list(all, &broker),
        TopicCommand::Describe { name, broker } => runtime.block_on(describe(&name, &broker)),
        TopicCommand::Delete { names, broker } => runtime.block_on(delete(&names, &broker)),
    }
}

fn admin(broker: &Bootstrap) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    let admin: AdminClient<_> = broker.config()?.create()?;
    broker.check(admin.inner())?;
    Ok(admin)
}

async fn create(names: &[String], partitions: i32, configs: &[String], broker: &Bootstrap) -> anyhow::Result<ExitCode> {
    let mut settings = Vec::new();
    for config in configs {
        settings.push(config.split_once('=').ok_or_else(|| anyhow!("--config {config}: expected NAME=VALUE"))?);
    }
    let topics: Vec<_> = names
        .iter()
        .map(|name| {
            let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
            settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let results = admin(broker)?.create_topics(&topics, &AdminOptions::new()).await?;
    report(results, "create", |name, _| refusal::of_create(broker, name, partitions, &settings))
}

async fn delete(names: &[String], broker: &Bootstrap) -> anyhow::Result<ExitCode> {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let results = admin(broker)?.delete_topics(&names, &AdminOptions::new()).await?;
    report(results, "delete", |name, error| match error {
        RDKafkaErrorCode::PolicyViolation | RDKafkaErrorCode::InvalidRequest => refusal::of_delete(broker, name),
        _ => None,
    })
}

/// Errors with the broker's words where it has any.
fn report(
    results: Vec<rdkafka::admin::TopicResult>,
    verb: &str,
    words: impl Fn(&str, RDKafkaErrorCode) -> Option<String>,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for result in results {
        if let Err((name, error)) = result {
            let words = words(&name, error).map(|words| format!(": {words}")).unwrap_or_default();
            eprintln!("mainstem: cannot {verb} topic {name}: {error}{words}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn list(all: bool, broker: &Bootstrap) -> anyhow::Result<ExitCode> {
    let consumer: BaseConsumer = broker.config()?.create()?;
    let metadata = consumer.fetch_metadata(None, PATIENCE).map_err(|error| broker.unreachable(&error))?;
    let mut rows = Vec::new();
    let mut topics: Vec<_> = metadata.topics().iter().filter(|t| all || !t.name().starts_with("__")).collect();
    topics.sort_by_key(|topic| topic.name());
    for topic in topics {
        let mut records = 0;
        for partition in topic.partitions() {
            let (start, end) = consumer.fetch_watermarks(topic.name(), partition.id(), PATIENCE)?;
            records += end - start;
        }
        rows.push(vec![topic.name().to_owned(), topic.partitions().len().to_string(), records.to_string()]);
    }
    writeln!(io::stdout(), "{}", table(&["topic", "partitions", "records"], rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn describe(name: &str, broker: &Bootstrap) -> anyhow::Result<ExitCode> {
    let consumer: BaseConsumer = broker.config()?.set("allow.auto.create.topics", "false").create()?;
    let metadata = consumer.fetch_metadata(None, PATIENCE).map_err(|error| broker.unreachable(&error))?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        bail!("topic {name} does not exist; `mainstem topic list --all` shows those that do");
    };
    let mut offsets = Vec::new();
    for partition in topic.partitions() {
        let (start, end) = consumer.fetch_watermarks(name, partition.id(), PATIENCE)?;
        offsets.push([i64::from(partition.id()), start, end, end - start].map(|n| n.to_string()).to_vec());
    }
    let mut settings = Vec::new();
    let resources = admin(broker)?.describe_configs(&[ResourceSpecifier::Topic(name)], &AdminOptions::new()).await?;
    for resource in resources {
        let resource = resource.map_err(|error| anyhow!("cannot read the settings of {name}: {error}"))?;
        for entry in resource.entries {
            let source = match entry.source {
                ConfigSource::DynamicTopic => "topic",
                ConfigSource::Default => "default",
                _ => "server",
            };
            settings.push(vec![entry.name, entry.value.unwrap_or_default(), source.to_owned()]);
        }
    }
    let offsets = table(&["partition", "start offset", "end offset", "records"], offsets);
    let settings = table(&["setting", "value", "set by"], settings);
    writeln!(io::stdout(), "{offsets}\n\n{settings}")?;
    Ok(ExitCode::SUCCESS)
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let header: Vec<_> = header.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Vec<_>> = rows.into_iter().map(|row| row.into_iter().map(Some).collect()).collect();
    crate::table::render(&header, &rows)
}
