//! The broker's own words for why it does not create or delete a topic.
//!
//! librdkafka gives a code only: its safe interface drops the text of CreateTopics, and it asks for deletions with a version
//! that has none. So what was refused is asked once more with a version that is answered in words: a creation as a mere
//! validation, a deletion as it is. Without an answer (TLS, another controller) the code has to do.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use mainstem_kafka_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use mainstem_kafka_wire::messages::delete_topics_request::DeleteTopicState;
use mainstem_kafka_wire::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, Request, StrBytes, TopicName, decode_response, encode_request,
};

use super::kafka_client::Bootstrap;

/// Versions with texts.
const CREATE_TOPICS: i16 = 7;
const DELETE_TOPICS: i16 = 6;
const TIMEOUT_MS: i32 = 3_000;
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a topic with these settings is not created.
pub(super) fn of_create(broker: &Bootstrap, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Option<String> {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(settings.iter().map(config).collect());
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS).with_validate_only(true);
    let answer = ask(broker, CREATE_TOPICS, &request).ok()?;
    let topic = answer.topics.first().filter(|topic| topic.error_code != 0)?;
    topic.error_message.as_ref().map(ToString::to_string)
}

/// Why a topic is not deleted.
pub(super) fn of_delete(broker: &Bootstrap, name: &str) -> Option<String> {
    let topic = DeleteTopicState::default().with_name(Some(TopicName(text(name))));
    let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
    let answer = ask(broker, DELETE_TOPICS, &request).ok()?;
    let topic = answer.responses.first()?;
    if topic.error_code == 0 {
        return Some("the first try was refused, the second has deleted it".to_owned());
    }
    topic.error_message.as_ref().map(ToString::to_string)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// One request on a connection of its own.
fn ask<R: Request>(broker: &Bootstrap, version: i16, request: &R) -> anyhow::Result<R::Response> {
    let patience = Duration::from_millis(u64::try_from(TIMEOUT_MS)?);
    let first = broker.bootstrap.split(',').next().unwrap_or_default().trim();
    let address = first.to_socket_addrs()?.next().context("the broker's name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(&encode_request(version, 1, Some("mainstem"), request)?)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length))?;
    ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    let (_, response) = decode_response::<R>(version, Bytes::from(frame))?;
    Ok(response)
}
