//! The project's own commands: `cargo xtask <command>`.
//!
//! Words: a *step* is one command of continuous integration; its *outcome* is printed in the summary at the end.
//!
//! Always true here: `cargo xtask ci` is all that `.ci/run` does, and every step can be run alone.

mod ci;
mod edges;
mod fuzz;
mod process;
mod setup;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
The project's own commands

Usage: cargo xtask <command>

Commands:
  ci [--lint]  All that continuous integration runs, in its order: setup, fmt, edges, tests, fuzz, outside world.
               With --lint also clippy, which builds everything a second time
  edges        Prove that the crates depend on one another only as the design allows
  fuzz [--seconds N] [--at-once N] [--target NAME] [--save | --input FILE]
               Fuzz every parser that faces a disk or a network, two at once and N seconds each unless told (120;
               the long run is --seconds 3600). Needs a C++ compiler. --save keeps what was found in fuzz/corpus/; --input runs one
               input again
  lint         cargo clippy with warnings denied
  setup        Install what the tests against the outside world need (Debian packages when run as root,
               Python packages below target/), or print what is missing and fail
  help         This text
";

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = root();
    let outcome = match arguments.as_slice() {
        ["ci"] => ci::run(&root, false),
        ["ci", "--lint"] => ci::run(&root, true),
        ["edges"] => edges::run(&root),
        ["fuzz", options @ ..] => fuzz::run(&root, options),
        ["lint"] => ci::lint(&root),
        ["setup"] => setup::run(&root),
        [] | ["help" | "--help" | "-h"] => {
            eprint!("{HELP}");
            Ok(())
        }
        other => Err(format!("unknown command `{}`; try `cargo xtask help`", other.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace, wherever the command was called from.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}
