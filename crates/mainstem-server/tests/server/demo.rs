//! The demo: its views equal batch, its totals equal figures counted from the CSV with other tools, and a falsified row
//! is found.

use crate::process::{Server, rows, run, text};

async fn check_totals(server: &Server) {
    let client = server.connect().await;
    let check = async |sql: &str, expected: &[&str]| {
        let found: Vec<_> = rows(&client, sql).await.into_iter().map(|row| row.join(" ")).collect();
        assert_eq!(found, expected, "{sql}");
    };
    // All figures were computed from the data set's CSV files by a script of its own, not with this code.
    check("SELECT count(*), sum(flights), sum(departures) FROM departures_by_hour", &["1664 29425 28485"]).await;
    // 129603.75 with exact interpolation; DataFusion's percentile_cont cuts the fraction between two rows at 6 digits.
    check(
        "SELECT count(*), abs(sum(p95_delay) - 129603.75) < 0.05 FROM departures_by_hour WHERE p95_delay IS NOT NULL",
        &["1659 t"],
    )
    .await;
    check(
        "SELECT airline, flights FROM delay_by_airline ORDER BY flights DESC LIMIT 3",
        &["United Air Lines Inc. 5066", "JetBlue Airways 4984", "ExpressJet Airlines Inc. 4641"],
    )
    .await;
    check("SELECT count(*), sum(cancelled), sum(planes) FROM delay_by_airline", &["15 940 3215"]).await;
    check(
        "SELECT origin, dest, destination, arrivals FROM worst_routes ORDER BY mean_delay DESC",
        &[
            "EWR TYS Mc Ghee Tyson 26",
            "EWR TUL Tulsa Intl 26",
            "JFK CMH Port Columbus Intl 61",
            "JFK CVG Cincinnati Northern Kentucky Intl 83",
            "LGA BHM Birmingham Intl 24",
            "EWR OKC Will Rogers World 28",
            "JFK SJC Norman Y Mineta San Jose Intl 31",
            "LGA CAK Akron Canton Regional Airport 80",
            "LGA PIT Pittsburgh Intl 63",
            "JFK PSE ∅ 29",
        ],
    )
    .await;
    check("SELECT sum(flights) FROM delay_by_weather", &["29425"]).await;
    check("SELECT sum(flights) FROM delay_by_weather WHERE wind = 'below 5 mph'", &["2779"]).await;
    check("SELECT count(*), min(flights), max(flights) FROM rush_hours", &["10 36 36"]).await;
    check("SELECT count(*) FROM places", &["96"]).await;
    check("SELECT count(*) FROM flights", &["29425"]).await;
}

#[tokio::test]
async fn the_views_equal_batch_and_the_totals_of_the_csv_also_after_a_kill() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("data");
    let output = run(&["demo", "--once", "--data-dir", data.to_str().expect("UTF-8")]);
    let shown = text(&output);
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("all views are equal"), "{shown}");
    let server = Server::start(&data);
    check_totals(&server).await;
    server.kill();
    let server = Server::start(&data);
    check_totals(&server).await;
    assert!(server.stop().success(), "SIGTERM is a clean stop");
}

#[test]
fn a_falsified_row_is_found() {
    let output = run(&["demo", "--once", "--corrupt-one-row"]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("delay_by_airline") && shown.contains("DIFFERS: 1 missing, 1 extra"), "{shown}");
}
