//! Nexmark: q0 to q22 over its generator's persons, auctions and bids.
//!
//! The queries are RisingWave's, with columns added where an order has ties. Rows are updated and deleted here, which no
//! stream of Nexmark does.

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

use super::{Exceptions, check, queries, tables};

/// A person, three auctions and 46 bids in each fifty.
const EVENTS: usize = 4000;
/// 2015-07-15 07:58 UTC, in milliseconds: q14 tells hours before and from 8.
const START_MS: u64 = 1_436_947_080_000;

const EXCEPTIONS: Exceptions = Exceptions { refused: &[], known: &[], empty: &[] };

/// A timestamp as Arrow's cast reads it.
fn time(ms: u64) -> String {
    let time = arrow::temporal_conversions::timestamp_ms_to_datetime(ms as i64).unwrap();
    time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string()
}

fn line(event: &Event) -> (&'static str, String) {
    match event {
        Event::Person(p) => {
            let at = time(p.date_time);
            let texts = [&p.name, &p.email_address, &p.credit_card, &p.city, &p.state, &at, &p.extra];
            ("person", format!("{}|{}", p.id, texts.map(String::as_str).join("|")))
        }
        Event::Auction(a) => {
            let (at, expires) = (time(a.date_time), time(a.expires));
            let about = format!("{}|{}|{}|{}|{}", a.id, a.item_name, a.description, a.initial_bid, a.reserve);
            ("auction", format!("{about}|{at}|{expires}|{}|{}|{}", a.seller, a.category, a.extra))
        }
        Event::Bid(b) => {
            let (at, written) = (time(b.date_time), time(b.date_time + 1500));
            let about = format!("{}|{}|{}|{}|{}", b.auction, b.bidder, b.price, b.channel, b.url);
            ("bid", format!("{about}|{at}|{}|{written}", b.extra))
        }
    }
}

/// The events of a few minutes with fewer things at once than Nexmark's millions have, so that keys meet.
fn events() -> Vec<Event> {
    let config = NexmarkConfig {
        base_time: START_MS,
        first_rate: 20,
        next_rate: 20,
        active_people: 20,
        in_flight_auctions: 20,
        ..NexmarkConfig::default()
    };
    EventGenerator::new(config).take(EVENTS).collect()
}

#[tokio::test]
async fn nexmark_as_views_over_changing_tables_equals_batch() {
    let events = events();
    let rows = |table: &str| match table {
        "side_input" => (0..10_000).step_by(7).map(|key| format!("{key}|value {key}")).collect(),
        table => {
            let lines = events.iter().map(line);
            lines.filter(|(of, _)| *of == table).map(|(_, line)| line).collect()
        }
    };
    let tables = tables(include_str!("nexmark/tables.sql"), rows);
    let queries = queries("nexmark");
    assert_eq!(queries.len(), 23);
    check(&tables, &queries, &EXCEPTIONS).await;
}
