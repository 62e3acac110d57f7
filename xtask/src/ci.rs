//! What continuous integration runs, in order; the first step that fails ends it.
//!
//! Always true here: one profile is built, and of it only the crates that are fuzzed twice. Clippy needs a second build of
//! everything, so it is asked for with `--lint`.

use std::path::Path;
use std::time::Instant;

use crate::{Result, edges, fuzz, process, setup};

/// Tests against programs of the outside world, once they are there.
const OUTSIDE_TESTS: &str = "tests/outside/run.sh";

type Step = (&'static str, fn(&Path) -> Result<()>);

/// Runs all steps. On success nothing is printed after the last one, so that the output ends with the test runner's own
/// summary.
pub(crate) fn run(root: &Path, with_lint: bool) -> Result<()> {
    let mut steps: Vec<Step> = vec![("setup", setup::run), ("fmt", format), ("edges", edges::run)];
    if with_lint {
        steps.push(("lint", lint));
    }
    steps.push(("tests", tests));
    steps.push(("fuzz", fuzz::run_all));
    if root.join(OUTSIDE_TESTS).exists() {
        steps.push(("outside world", outside_tests));
    } else {
        eprintln!("note: there is no {OUTSIDE_TESTS}, so no tests against the outside world are run");
    }

    let mut before = String::new();
    for (name, step) in steps {
        eprintln!("\n== {name}{before}");
        let start = Instant::now();
        step(root).map_err(|message| format!("step {name}: {message}"))?;
        before = format!(" (after {name}, which took {} s)", start.elapsed().as_secs());
    }
    Ok(())
}

fn format(root: &Path) -> Result<()> {
    process::run(root, "cargo", &["fmt", "--all", "--check"])
}

/// Clippy over everything, warnings denied. `disallowed_methods` is off here and on where a crate denies it itself: an
/// attribute in the code outranks the command line.
pub(crate) fn lint(root: &Path) -> Result<()> {
    let levels = ["-D", "warnings", "-A", "clippy::disallowed_methods"];
    let mut arguments = vec!["clippy", "--workspace", "--all-targets", "--locked", "--"];
    arguments.extend(levels);
    process::run(root, "cargo", &arguments)
}

/// All failures are worth knowing, so the first does not end the run.
fn tests(root: &Path) -> Result<()> {
    process::run(root, "cargo", &["test", "--workspace", "--locked", "--no-fail-fast"])
}

fn outside_tests(root: &Path) -> Result<()> {
    process::run(root, "bash", &[OUTSIDE_TESTS])
}
