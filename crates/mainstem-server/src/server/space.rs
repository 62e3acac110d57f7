//! Tells the operator when the disk refuses writes, and when it takes them again.
//!
//! Clients hear of it with each refusal, and most try again in silence until their timeout: without a line here nobody
//! would know why nothing is written.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mainstem_log::Log;
use tokio_util::sync::CancellationToken;

/// How often the log is asked.
const LOOK: Duration = Duration::from_secs(1);
/// At most one line about a full disk in this time.
const QUIET: Duration = Duration::from_secs(60);

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Full,
    SpaceAgain,
}

/// What was seen and said so far.
#[derive(Debug, Default)]
struct Watch {
    refused: u64,
    told_at: Option<Instant>,
    /// The operator knows of it as full.
    is_told: bool,
}

impl Watch {
    /// `refused`: appends refused for want of space since the start.
    fn look(&mut self, now: Instant, refused: u64, has_space: impl FnOnce() -> bool) -> Option<News> {
        let is_refusing = refused > self.refused;
        self.refused = refused;
        if is_refusing {
            if self.told_at.is_some_and(|told_at| now.duration_since(told_at) < QUIET) {
                return None;
            }
            (self.told_at, self.is_told) = (Some(now), true);
            return Some(News::Full);
        }
        if self.is_told && has_space() {
            self.is_told = false;
            return Some(News::SpaceAgain);
        }
        None
    }
}

/// Looks until `shutdown`.
pub(super) async fn watch(log: Log, data_dir: PathBuf, shutdown: CancellationToken) {
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let refused = log.counters().refused_for_space;
        match watch.look(Instant::now(), refused, || log.has_space()) {
            Some(News::Full) => tracing::warn!(
                data_dir = %data_dir.display(),
                refused,
                "the disk is full: records and changes of tables and definitions are refused, reading goes on; free some \
                 space on the disk of the data directory, writes then resume by themselves"
            ),
            Some(News::SpaceAgain) => tracing::warn!(
                data_dir = %data_dir.display(),
                refused,
                "the disk has space again: writes are accepted"
            ),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_once_a_minute_and_its_end_once() {
        let start = Instant::now();
        let mut watch = Watch::default();
        let mut look = |second: u64, refused: u64, has_space: bool| {
            watch.look(start + Duration::from_secs(second), refused, || has_space)
        };
        assert_eq!(look(0, 0, true), None);
        assert_eq!(look(1, 3, false), Some(News::Full));
        assert_eq!(look(2, 9, false), None);
        assert_eq!(look(3, 9, false), None, "nobody writes, and it is still full");
        assert_eq!(look(61, 10, false), Some(News::Full), "a minute later");
        assert_eq!(look(62, 10, true), Some(News::SpaceAgain));
        assert_eq!(look(63, 10, true), None);
        assert_eq!(look(64, 11, false), None, "full again within the minute");
        assert_eq!(look(65, 11, true), None, "what was not told has no end to tell");
        assert_eq!(look(121, 12, false), Some(News::Full));
    }
}
