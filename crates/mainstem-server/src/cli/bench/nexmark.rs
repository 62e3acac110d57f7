//! Nexmark's events as JSON in three topics, `NAME-person`, `NAME-auction` and `NAME-bid`: what `bench/flink/compare.py` lets
//! two engines read.
//!
//! Always true here: the same count gives the same events; an event's partition is its place among all events modulo the
//! partitions, so that each partition is in the order of event time.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;
use rdkafka::producer::Producer;

use super::super::kafka_client::Bootstrap;
use super::{create_topic, producer, send};

/// 2015-07-15 00:00 UTC, Nexmark's own first moment, in milliseconds.
const START_MS: u64 = 1_436_918_400_000;
/// Events between two steps of the progress bar.
const STEP: u64 = 10_000;

const KINDS: [&str; 3] = ["person", "auction", "bid"];

/// Creates the topics and writes the events; seconds, the time to make the events included.
pub(super) async fn run(broker: &Bootstrap, name: &str, events: u64, partitions: usize) -> anyhow::Result<f64> {
    for kind in KINDS {
        create_topic(broker, &format!("{name}-{kind}"), partitions).await?;
    }
    let (broker, name) = (broker.clone(), name.to_owned());
    tokio::task::spawn_blocking(move || write(&broker, &name, events, partitions)).await?
}

fn write(broker: &Bootstrap, name: &str, events: u64, partitions: usize) -> anyhow::Result<f64> {
    let producer = producer(broker)?;
    let topics = KINDS.map(|kind| format!("{name}-{kind}"));
    let bar = ProgressBar::new(events)
        .with_style(ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} events, {per_sec}, {eta} left")?);
    let start = Instant::now();
    let config = NexmarkConfig { base_time: START_MS, ..NexmarkConfig::default() };
    let mut value = String::new();
    for (n, event) in (0..events).zip(EventGenerator::new(config)) {
        value.clear();
        let kind = encode(&event, &mut value);
        let [person, auction, bid] = &topics;
        let topic = match kind {
            Kind::Person => person,
            Kind::Auction => auction,
            Kind::Bid => bid,
        };
        send(&producer, topic, &value, Some(i32::try_from(n % partitions as u64)?))?;
        if n % STEP == 0 {
            bar.set_position(n);
        }
    }
    producer.flush(Duration::from_secs(120))?;
    bar.finish_and_clear();
    Ok(start.elapsed().as_secs_f64())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Person,
    Auction,
    Bid,
}

/// The event as a JSON object, appended.
fn encode(event: &Event, out: &mut String) -> Kind {
    match event {
        Event::Person(person) => {
            let texts = [
                ("name", &person.name),
                ("email_address", &person.email_address),
                ("credit_card", &person.credit_card),
                ("city", &person.city),
                ("state", &person.state),
            ];
            object(out, &[("id", person.id)], &texts, &[("date_time", person.date_time)], &person.extra);
            Kind::Person
        }
        Event::Auction(auction) => {
            let numbers = [
                ("id", auction.id),
                ("initial_bid", auction.initial_bid),
                ("reserve", auction.reserve),
                ("seller", auction.seller),
                ("category", auction.category),
            ];
            let texts = [("item_name", &auction.item_name), ("description", &auction.description)];
            let times = [("date_time", auction.date_time), ("expires", auction.expires)];
            object(out, &numbers, &texts, &times, &auction.extra);
            Kind::Auction
        }
        Event::Bid(bid) => {
            let numbers = [("auction", bid.auction), ("bidder", bid.bidder), ("price", bid.price)];
            let texts = [("channel", &bid.channel), ("url", &bid.url)];
            object(out, &numbers, &texts, &[("date_time", bid.date_time)], &bid.extra);
            Kind::Bid
        }
    }
}

fn object(out: &mut String, numbers: &[(&str, usize)], texts: &[(&str, &String)], times: &[(&str, u64)], extra: &str) {
    out.push('{');
    for (name, value) in numbers {
        let _ = write!(out, "\"{name}\":{value},");
    }
    for (name, value) in texts {
        let _ = write!(out, "\"{name}\":{},", serde_json::Value::from(value.as_str()));
    }
    for (name, value) in times {
        let time = chrono::DateTime::from_timestamp_millis(*value as i64).unwrap_or_default();
        let _ = write!(out, "\"{name}\":\"{}\",", time.format("%Y-%m-%dT%H:%M:%S%.3f"));
    }
    let _ = write!(out, "\"extra\":{}}}", serde_json::Value::from(extra));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_events_are_a_person_three_auctions_and_bids_in_order_of_time() {
        let config = NexmarkConfig { base_time: START_MS, ..NexmarkConfig::default() };
        let mut kinds = Vec::new();
        let mut before = String::new();
        for event in EventGenerator::new(config).take(50) {
            let mut text = String::new();
            kinds.push(encode(&event, &mut text));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let time = value["date_time"].as_str().unwrap().to_owned();
            assert!(time >= before && time.starts_with("2015-07-15T00:00:00."), "{text}");
            assert!(value["extra"].is_string());
            before = time;
        }
        assert_eq!(kinds[..4], [Kind::Person, Kind::Auction, Kind::Auction, Kind::Auction]);
        assert!(kinds[4..].iter().all(|kind| *kind == Kind::Bid));
    }
}
