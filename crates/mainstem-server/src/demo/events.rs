//! The demo's data as events: July 2013 in the order in which it became known.
//!
//! A flight is known when it departs, a cancelled one at its scheduled time, a weather report at its hour. Event time is
//! the scheduled departure, so flights arrive out of order by their delay.

use std::io::Read;

use anyhow::{Context, anyhow};
use chrono::{DateTime, TimeDelta, Utc};
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

const FLIGHTS: &[u8] = include_bytes!("../../data/flights-2013-07.csv.gz");
const WEATHER: &[u8] = include_bytes!("../../data/weather-2013-07.csv.gz");
const AIRLINES: &[u8] = include_bytes!("../../data/airlines.csv.gz");
const AIRPORTS: &[u8] = include_bytes!("../../data/airports.csv.gz");

/// One record to produce.
#[derive(Debug)]
pub(crate) struct Event {
    /// When it became known.
    pub(crate) at: DateTime<Utc>,
    /// `flights` or `weather`.
    pub(crate) topic: &'static str,
    /// Record key: the airport.
    pub(crate) key: String,
    /// JSON object.
    pub(crate) value: String,
}

/// All events in order of arrival.
pub(crate) fn events() -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    for row in Csv::read(FLIGHTS)?.rows {
        events.push(flight(&row).with_context(|| format!("flight {row:?}"))?);
    }
    for row in Csv::read(WEATHER)?.rows {
        events.push(weather(&row).with_context(|| format!("weather {row:?}"))?);
    }
    // Stable: what happens in the same minute keeps the file's order.
    events.sort_by_key(|event| event.at);
    Ok(events)
}

/// `(code, name)` of each airline.
pub(crate) fn airlines() -> anyhow::Result<Vec<[Option<String>; 2]>> {
    Ok(Csv::read(AIRLINES)?.rows.iter().map(|row| [row.text("carrier"), row.text("name")]).collect())
}

/// `(code, name, time zone)` of each airport.
pub(crate) fn airports() -> anyhow::Result<Vec<[Option<String>; 3]>> {
    Ok(Csv::read(AIRPORTS)?.rows.iter().map(|row| [row.text("faa"), row.text("name"), row.text("tzone")]).collect())
}

fn flight(row: &Row) -> anyhow::Result<Event> {
    let minute = row.number("minute").and_then(|minute| minute.as_i64()).context("minute")?;
    let scheduled = row.time("time_hour")? + TimeDelta::minutes(minute);
    // dep_time is a local HHMM without a date; the delay is exact past midnight too.
    let departed =
        row.number("dep_delay").and_then(|delay| delay.as_i64()).map(|delay| scheduled + TimeDelta::minutes(delay));
    let mut value = Map::new();
    for name in ["carrier", "tailnum", "origin", "dest"] {
        value.insert(name.into(), row.text(name).into());
    }
    for name in ["flight", "dep_delay", "arr_delay", "air_time", "distance"] {
        value.insert(name.into(), row.number(name).into());
    }
    value.insert("scheduled".into(), iso(scheduled).into());
    value.insert("departed".into(), departed.map(iso).into());
    let key = row.text("origin").context("origin")?;
    Ok(Event { at: departed.unwrap_or(scheduled), topic: "flights", key, value: Value::Object(value).to_string() })
}

fn weather(row: &Row) -> anyhow::Result<Event> {
    let hour = row.time("time_hour")?;
    let key = row.text("origin").context("origin")?;
    let value = json!({
        "origin": key, "hour": iso(hour), "temp": row.number("temp"), "wind_speed": row.number("wind_speed"),
        "precip": row.number("precip"), "visib": row.number("visib"),
    });
    Ok(Event { at: hour, topic: "weather", key, value: value.to_string() })
}

fn iso(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The bundled files have a header, no quotes, and `NA` for null.
struct Csv {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    header: std::rc::Rc<Vec<String>>,
    fields: Vec<String>,
}

impl Csv {
    fn read(gzipped: &[u8]) -> anyhow::Result<Csv> {
        let mut text = String::new();
        GzDecoder::new(gzipped).read_to_string(&mut text).context("the bundled data is damaged")?;
        let mut lines = text.lines();
        let split = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
        let header = std::rc::Rc::new(split(lines.next().context("empty file")?));
        let rows = lines.map(|line| Row { header: header.clone(), fields: split(line) }).collect();
        Ok(Csv { rows })
    }
}

impl Row {
    fn text(&self, name: &str) -> Option<String> {
        let at = self.header.iter().position(|column| column == name)?;
        self.fields.get(at).filter(|field| *field != "NA").cloned()
    }

    fn number(&self, name: &str) -> Option<serde_json::Number> {
        self.text(name)?.parse().ok()
    }

    fn time(&self, name: &str) -> anyhow::Result<DateTime<Utc>> {
        let text = self.text(name).ok_or_else(|| anyhow!("no {name}"))?;
        Ok(text.parse::<DateTime<Utc>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The figures were counted from the full data set's CSV with other tools: rows with month 7.
    #[test]
    fn july_has_as_many_events_as_the_data_set_says() {
        let events = events().expect("bundled data");
        let flights: Vec<_> = events.iter().filter(|event| event.topic == "flights").collect();
        assert_eq!((flights.len(), events.len() - flights.len()), (29_425, 2_228));
        assert_eq!(flights.iter().filter(|event| event.value.contains("\"departed\":null")).count(), 940);
        assert_eq!((airlines().expect("bundled").len(), airports().expect("bundled").len()), (16, 1458));
        assert!(events.is_sorted_by_key(|event| event.at));
    }
}
