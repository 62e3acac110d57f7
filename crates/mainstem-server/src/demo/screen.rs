//! What the demo shows: a progress bar and live tables on a terminal, plain lines elsewhere.

use std::fmt;
use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::replay::Progress;
use crate::server::Server;

/// A live table: a title and the query behind it.
const TABLES: &[(&str, &str)] = &[
    (
        "departures in the latest hours",
        "SELECT origin, hour, departures, round(mean_delay, 1) AS mean_min, round(p95_delay, 1) AS p95_min \
         FROM departures_by_hour WHERE departures > 0 ORDER BY hour DESC, origin LIMIT 6",
    ),
    (
        "delay by airline",
        "SELECT airline, flights, cancelled, round(mean_delay, 1) AS mean_min, worst_delay AS worst_min \
         FROM delay_by_airline ORDER BY mean_delay DESC LIMIT 6",
    ),
    (
        "the ten worst routes",
        "SELECT origin, dest, destination, arrivals, round(mean_delay, 1) AS mean_min \
         FROM worst_routes ORDER BY mean_delay DESC LIMIT 10",
    ),
    (
        "delay by wind and visibility",
        "SELECT wind, visibility, flights, round(mean_delay, 1) AS mean_min \
         FROM delay_by_weather ORDER BY flights DESC LIMIT 6",
    ),
];

pub(crate) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Shows the views while the replay runs; answers how many lines it has drawn.
pub(crate) async fn follow(
    client: &Client,
    progress: &Progress,
    replaying: &JoinHandle<anyhow::Result<()>>,
    live: bool,
) -> anyhow::Result<usize> {
    let bar = ProgressBar::with_draw_target(
        Some(progress.total() as u64),
        if live { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() },
    );
    // The bar takes what the words leave of the line.
    let style = ProgressStyle::with_template("{wide_bar:.cyan} {pos}/{len} events, {rate}, {eta} left")?;
    bar.set_style(style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    }));
    let mut drawn = 0;
    while !replaying.is_finished() {
        bar.set_position(progress.sent() as u64);
        if live {
            // The bar and the cursor have a line each.
            let lines_max = usize::from(Term::stdout().size().0).saturating_sub(3);
            let text = render(&answers(client).await?, lines_max);
            bar.suspend(|| drawn = redraw(&text, drawn));
        }
        tokio::time::sleep(Duration::from_millis(if live { 250 } else { 10 })).await;
    }
    bar.finish_and_clear();
    Ok(drawn)
}

/// Shows the views once they have followed everything.
pub(crate) async fn settle(client: &Client, drawn: usize) -> anyhow::Result<()> {
    // FLUSH answers when the views have followed all that was acknowledged.
    client.batch_execute("FLUSH").await.context("waiting for the views")?;
    redraw(&render(&answers(client).await?, usize::MAX), drawn);
    Ok(())
}

/// Writes the text over what was drawn before; answers its number of lines.
fn redraw(text: &str, lines_before: usize) -> usize {
    let mut out = stdout().lock();
    if lines_before > 0 {
        let _ = write!(out, "\x1b[{lines_before}A\x1b[J");
    }
    let _ = write!(out, "{text}");
    let _ = out.flush();
    text.lines().count()
}

/// A query's answer.
struct Answer {
    title: &'static str,
    header: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

async fn answers(client: &Client) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for (title, query) in TABLES {
        let mut answer = Answer { title, header: Vec::new(), rows: Vec::new() };
        for message in client.simple_query(query).await.with_context(|| format!("reading {title}"))? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    answer.header = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    answer.rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// The answers as text of at most `lines_max` lines: fewer rows of each first, then fewer tables.
fn render(answers: &[Answer], lines_max: usize) -> String {
    const FRAME: usize = 4;
    let fits =
        |rows: usize| answers.iter().map(|answer| answer.rows.len().min(rows) + FRAME).sum::<usize>() <= lines_max;
    let rows_max = (2..=10).rev().find(|rows| fits(*rows)).unwrap_or(2);
    let mut text = String::new();
    for answer in answers {
        let rows = answer.rows.get(..rows_max.min(answer.rows.len())).unwrap_or_default();
        if text.lines().count() + rows.len() + FRAME > lines_max && !text.is_empty() {
            break;
        }
        text.push_str(&format!("\n{}\n{}\n", answer.title, crate::table::render(&answer.header, rows)));
    }
    text
}

/// How to look on with other programs.
pub(crate) fn look_on(server: &Server, kept: Option<&Path>) {
    let at = server.addresses();
    println!("\nThe server goes on until Ctrl-C. Look around with:");
    println!("  psql -h {} -p {} -U root dev -c 'SELECT * FROM worst_routes'", at.pg.ip(), at.pg.port());
    println!("  kcat -b {} -C -t flights -o beginning -c 3", at.kafka);
    println!("  http://{}/ in a browser", at.http);
    if let Some(dir) = kept {
        println!("Later: mainstem serve --data-dir {}", dir.display());
    }
}
