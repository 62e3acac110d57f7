//! Drives the engine's ticker: the clock gets into the log here, and nowhere else.

use std::time::Duration;

use mainstem_engine::{Engine, Ticker};
use tokio_util::sync::CancellationToken;

/// How often it is looked at at least: IDLE TIMEOUT is measured about as finely.
const LOOK: Duration = Duration::from_secs(1);

/// Until the server stops.
pub(super) async fn run(engine: Engine, tick: Duration, shutdown: CancellationToken) {
    let mut ticker = Ticker::new(engine, tick);
    let mut is_told = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(tick.min(LOOK)) => {}
            () = shutdown.cancelled() => return,
        }
        // It waits for the disk.
        let round = tokio::task::spawn_blocking(move || {
            let result = ticker.round();
            (ticker, result)
        });
        match round.await {
            Ok((again, Ok(()))) => (ticker, is_told) = (again, false),
            Ok((again, Err(error))) => {
                ticker = again;
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "no ticks can be written; now() in views stands still until they can");
                }
            }
            Err(error) => return tracing::error!(%error, "the ticker has ended; now() in views stands still"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mainstem_catalog::{CATALOG_TOPIC_ID, IDLE_TOPIC_ID, TICKS_TOPIC_ID};

    #[test]
    fn topics_with_fixed_ids_have_different_ones() {
        let ids = [CATALOG_TOPIC_ID, TICKS_TOPIC_ID, IDLE_TOPIC_ID, mainstem_connectors::topic::OUTPUT_CUTS_TOPIC_ID];
        assert_eq!(BTreeSet::from(ids).len(), ids.len());
    }
}
