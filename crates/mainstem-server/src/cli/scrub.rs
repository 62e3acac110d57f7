//! `mainstem scrub`: reads all that is stored and says what is not what was written.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mainstem_disk::{Disk, LockedDir, RealDisk, SystemClock};
use mainstem_log::{Damage, LogConfig};
use mainstem_state::StateError;

use crate::config::STATE_DIRECTORY;
use crate::table::render;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mainstem scrub                                exit status 0: all is as it was written; 1: damage was found
  mainstem scrub --data-dir /var/lib/mainstem")]
pub(crate) struct ScrubArgs {
    /// The data directory; no server may be running on it
    #[arg(long, env = "MAINSTEM_DATA_DIR", value_name = "DIR", default_value = "mainstem-data")]
    data_dir: PathBuf,
}

pub(crate) fn run(args: &ScrubArgs) -> anyhow::Result<ExitCode> {
    let directory = &args.data_dir;
    if !directory.is_dir() {
        bail!("there is no directory {}; name one with --data-dir", directory.display());
    }
    let _lock = LockedDir::acquire(directory).with_context(|| {
        format!("cannot scrub {}: a server that runs on it checks what it reads by itself", directory.display())
    })?;
    let place = || format!("reading {}", directory.display());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(directory).with_context(place)?);
    let bar = progress_bar(bytes_below(directory).with_context(place)?);
    let mut report =
        mainstem_log::scrub(disk.clone(), Arc::new(SystemClock::default()), LogConfig::default(), &mut |bytes| {
            bar.inc(bytes)
        })
        .with_context(place)?;
    let entries = scrub_state(directory, &mut report.damage).with_context(place)?;
    bar.finish_and_clear();
    println!(
        "{} partitions, {} segments, {} batches, {entries} entries of the views' state: {} bytes read",
        report.partitions, report.segments, report.batches, report.bytes
    );
    if report.torn_bytes > 0 {
        println!(
            "{} bytes behind the last entry are a torn write that was never acknowledged: no damage",
            report.torn_bytes
        );
    }
    if report.damage.is_empty() {
        println!("all is as it was written");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} places are damaged; what to do about each is in what it means:", report.damage.len());
    let row = |damage: &Damage| {
        vec![Some(damage.file.clone()), Some(damage.position.to_string()), Some(damage.meaning.clone())]
    };
    let rows: Vec<_> = report.damage.iter().map(row).collect();
    println!("{}", render(&["file".to_owned(), "byte".to_owned(), "what it means".to_owned()], &rows));
    Ok(ExitCode::FAILURE)
}

/// The state of the views: what is damaged costs time at the next start, never content. Answers how many entries it has.
fn scrub_state(directory: &Path, damage: &mut Vec<Damage>) -> anyhow::Result<u64> {
    match mainstem_state::scrub_lsm(&directory.join(STATE_DIRECTORY)) {
        Ok(entries) => Ok(entries),
        Err(StateError::Damaged { place, meaning }) => {
            let meaning = format!(
                "{meaning}: the server empties the state of the views when it sees this, and reads history again"
            );
            damage.push(Damage { file: place, position: 0, partition: None, meaning });
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}

fn bytes_below(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn progress_bar(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{wide_bar} {bytes} of at most {total_bytes}, {bytes_per_sec}, {eta} left");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
