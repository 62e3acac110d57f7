//! What the commands that talk to a Kafka broker share: where it is, and what to say when it is not there.

use std::time::Duration;

use anyhow::{Context, anyhow};
use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext};

/// How long a command waits for the broker's first answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Where the broker is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Bootstrap {
    /// Address of the broker's Kafka protocol; any Kafka broker will do
    #[arg(short, long, env = "MAINSTEM_BOOTSTRAP", value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap: String,
    /// A setting of librdkafka, `name=value`; can be repeated
    #[arg(short = 'X', value_name = "NAME=VALUE")]
    pub(crate) settings: Vec<String>,
}

impl Bootstrap {
    /// librdkafka's configuration for this broker.
    pub(crate) fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("client.id", "mainstem");
        // The commands report errors themselves; librdkafka would write them to standard error as well.
        config.set("log_level", "0");
        for setting in &self.settings {
            let (name, value) =
                setting.split_once('=').with_context(|| format!("-X {setting}: expected NAME=VALUE"))?;
            config.set(name, value);
        }
        Ok(config)
    }

    /// Fails with an error that helps when nobody answers.
    pub(crate) fn check<C: ClientContext>(&self, client: &Client<C>) -> anyhow::Result<()> {
        client.fetch_metadata(None, PATIENCE).map(|_| ()).map_err(|error| self.unreachable(&error))
    }

    /// The error for a broker that does not answer.
    pub(crate) fn unreachable(&self, error: &rdkafka::error::KafkaError) -> anyhow::Error {
        anyhow!(
            "no Kafka broker answers at {} ({error}); start one with `mainstem serve`, or name another with --bootstrap",
            self.bootstrap
        )
    }
}
