//! Every target over its seeds, its corpus, and some thousands of mutations of both.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use mainstem_fuzz::mutation::{Numbers, mutated};
use mainstem_fuzz::{TARGETS, Target};

/// Mutations of one target; fewer where this much time has passed.
const MUTATIONS: usize = 2_000;
const TIME: Duration = Duration::from_secs(1);

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// What is allocated is counted for the whole process, so that one test runs at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(panic);
        }));
    });
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it runs without a panic on any thread.
pub(crate) fn holds(target: &Target, data: &[u8]) -> bool {
    let before = PANICS.load(Ordering::SeqCst);
    let returned = catch_unwind(AssertUnwindSafe(|| target.run(data))).is_ok();
    returned && PANICS.load(Ordering::SeqCst) == before
}

fn corpus_dir(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

fn saved(target: &Target) -> Vec<(String, Vec<u8>)> {
    let names = std::fs::read_dir(corpus_dir(target)).expect("every target has a corpus");
    let mut files: Vec<PathBuf> = names.map(|entry| entry.expect("a name").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), std::fs::read(&path).expect("it reads"))).collect()
}

#[test]
fn no_input_that_is_saved_and_no_mutation_of_one_fails() {
    let _alone = alone();
    let seed = std::env::var("MAINSTEM_SEED").map_or(1, |text| text.parse().expect("MAINSTEM_SEED is a number"));
    eprintln!("MAINSTEM_SEED={seed}");
    for target in TARGETS {
        let inputs = [(target.seeds)(), saved(target)].concat();
        for (name, data) in &inputs {
            assert!(holds(target, data), "{} fails on {name}", target.name);
        }
        let (mut numbers, start) = (Numbers(seed), Instant::now());
        for number in 0..MUTATIONS {
            let (name, data) = &inputs[numbers.below(inputs.len())];
            let data = mutated(data, &mut numbers);
            assert!(holds(target, &data), "{} fails on mutation {number}, of {name}: {data:?}", target.name);
            if start.elapsed() > TIME {
                break;
            }
        }
    }
}

/// `cargo xtask fuzz` learns the targets from the directories of their corpora.
#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let names = std::fs::read_dir(dir).expect("it reads").map(|entry| entry.expect("a name").file_name());
    let mut corpora: Vec<String> = names.map(|name| name.into_string().expect("text")).collect();
    let mut targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    corpora.sort();
    targets.sort_unstable();
    assert_eq!(corpora, targets);
}

/// Writes the seeds to the directory that `MAINSTEM_FUZZ_SEEDS` names, one directory below it per target: what a new corpus begins
/// from.
#[test]
fn the_seeds_are_written_on_request() {
    let _alone = alone();
    let Ok(dir) = std::env::var("MAINSTEM_FUZZ_SEEDS") else { return };
    for target in TARGETS {
        let dir = Path::new(&dir).join(target.name);
        std::fs::create_dir_all(&dir).expect("a directory");
        for (name, data) in (target.seeds)() {
            std::fs::write(dir.join(name), data).expect("a file");
        }
    }
}
