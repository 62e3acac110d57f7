//! The fuzzer over every target of `fuzz/`.
//!
//! Words: a target's *saved corpus* is `fuzz/corpus/<name>/`; it runs over a copy below `target/fuzz/<name>/`, where what it
//! finds and its own words go too.
//!
//! Always true here: a failure names the input and the command that repeats it; the saved corpus changes only when asked.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use serde_json::Value;

use crate::{Result, process};

/// Targets at once, unless told.
const AT_ONCE: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");
/// What a target's saved corpus may take: the smallest inputs stay.
const SAVED_BYTES_MAX: u64 = 256 << 10;
/// Inputs of such a name stay in the saved corpus: each has failed once.
const KEPT: &str = "kept-";
/// An input that takes longer is a failure. Everything is a thousand times faster, even on a machine that is busy.
const INPUT_SECONDS_MAX: u32 = 30;
/// Of the whole process. What one input may keep allocated each target sees to itself: libFuzzer's limit on single
/// allocations does nothing without a sanitizer.
const MEMORY_LIMIT: &str = "-rss_limit_mb=512";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    /// Of each target.
    seconds: u32,
    target: Option<String>,
    /// Run this input alone.
    input: Option<PathBuf>,
    /// Keep what was found in the saved corpus.
    save: bool,
    /// Targets.
    at_once: NonZeroUsize,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options { seconds: 120, target: None, input: None, save: false, at_once: AT_ONCE };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
            match *argument {
                "--seconds" => {
                    let text = value()?;
                    options.seconds = text.parse().map_err(|_| format!("--seconds {text}: not a number"))?;
                }
                "--target" => options.target = Some((*value()?).to_owned()),
                "--input" => options.input = Some(PathBuf::from(value()?)),
                "--save" => options.save = true,
                "--at-once" => {
                    let text = value()?;
                    options.at_once = text.parse().map_err(|_| format!("--at-once {text}: not a number above 0"))?;
                }
                other => return Err(format!("unknown option `{other}` of fuzz; try `cargo xtask help`")),
            }
        }
        if options.input.is_some() && options.target.is_none() {
            return Err("--input needs --target".to_owned());
        }
        Ok(options)
    }
}

/// What continuous integration runs: two minutes of each, with the dependencies that its tests have built.
pub(crate) fn run_all(root: &Path) -> Result<()> {
    start(root, Options::parse(&[])?, "libfuzzer,built")
}

/// What a person runs; builds no more than the targets need.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    start(root, Options::parse(arguments)?, "libfuzzer")
}

fn start(root: &Path, options: Options, features: &str) -> Result<()> {
    let mut names = targets(root)?;
    if let Some(wanted) = &options.target {
        if !names.contains(wanted) {
            return Err(format!("no target {wanted}; there are {}", names.join(", ")));
        }
        names = vec![wanted.clone()];
    }
    let fuzzer = Fuzzer { root, program: build(root, features)?, options };
    if let (Some(input), [name]) = (&fuzzer.options.input, names.as_slice()) {
        return fuzzer.repeat(name, input);
    }
    let queue = Mutex::new(names.into_iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..fuzzer.options.at_once.get() {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics with it").next();
                    let Some(name) = next else { return };
                    match fuzzer.fuzz(&name) {
                        Ok(line) => eprintln!("{line}"),
                        Err(failure) => {
                            eprintln!("{failure}");
                            failures.lock().expect("no thread panics with it").push(failure);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics with it");
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// Every target has a saved corpus; a test of `mainstem-fuzz` proves it.
fn targets(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("fuzz/corpus");
    let entries = fs::read_dir(&dir).map_err(failed(&dir))?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Builds the fuzzer: this workspace's crates with counters, all others as in every build.
fn build(root: &Path, features: &str) -> Result<PathBuf> {
    let wrapper = root.join("fuzz/instrument.sh");
    let arguments = ["build", "--locked", "--package", "mainstem-fuzz", "--features", features, "--bin", "fuzz"];
    eprintln!("$ RUSTC_WORKSPACE_WRAPPER={} cargo {}", wrapper.display(), arguments.join(" "));
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root).env("RUSTC_WORKSPACE_WRAPPER", &wrapper);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("building the fuzzer failed: {status}")),
        Err(error) => return Err(format!("cargo cannot be run: {error}")),
    }
    let metadata = process::output(root, "cargo", &["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata names no target directory")?;
    Ok(Path::new(target).join("debug/fuzz"))
}

struct Fuzzer<'a> {
    root: &'a Path,
    program: PathBuf,
    options: Options,
}

impl Fuzzer<'_> {
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("MAINSTEM_FUZZ_TARGET", name).current_dir(self.root);
        command
    }

    fn repeat(&self, name: &str, input: &Path) -> Result<()> {
        // As the caller named it, which need not be from the root.
        let input = fs::canonicalize(input).map_err(failed(input))?;
        let status = self.command(name).arg(MEMORY_LIMIT).arg(&input).env("RUST_BACKTRACE", "1").status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{name} fails on {}: {status}", input.display())),
            Err(error) => Err(failed(&self.program)(error)),
        }
    }

    /// Fuzzes one target; answers a line for people.
    fn fuzz(&self, name: &str) -> Result<String> {
        let dir = self.root.join("target/fuzz").join(name);
        let corpus = dir.join("corpus");
        let saved = self.root.join("fuzz/corpus").join(name);
        copy_afresh(&saved, &corpus)?;
        let log = dir.join("log");
        let output = File::create(&log).map_err(failed(&log))?;
        let errors = output.try_clone().map_err(failed(&log))?;
        let start = Instant::now();
        let status = self
            .command(name)
            .arg(MEMORY_LIMIT)
            .arg(format!("-max_total_time={}", self.options.seconds))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-artifact_prefix={}/", dir.display()))
            .arg("-print_final_stats=1")
            .arg(&corpus)
            .stdout(output)
            .stderr(errors)
            .status()
            .map_err(failed(&self.program))?;
        let said = String::from_utf8_lossy(&fs::read(&log).map_err(failed(&log))?).into_owned();
        if !status.success() {
            return Err(failure(name, &said, &log));
        }
        if self.options.save {
            self.save(name, &corpus, &saved)?;
        }
        Ok(summary(name, &said, start.elapsed().as_secs()))
    }

    /// The saved corpus becomes what reaches everything that was reached, as far as there is room.
    fn save(&self, name: &str, corpus: &Path, saved: &Path) -> Result<()> {
        let minimal = corpus.with_file_name("minimal");
        make_empty(&minimal)?;
        let mut command = self.command(name);
        // By what is reached, not by how often: a corpus of dozens of files, not thousands.
        command.args(["-set_cover_merge=1", "-use_counters=0"]).args([&minimal, &corpus.to_owned()]);
        let output = command.output().map_err(failed(&self.program))?;
        if !output.status.success() {
            return Err(format!("{name}: merging the corpus failed: {}", output.status));
        }
        let mut files = files(&minimal)?;
        files.sort_by_key(|(path, bytes)| (*bytes, path.clone()));
        let mut room = SAVED_BYTES_MAX;
        for (path, bytes) in files {
            if bytes > room {
                fs::remove_file(&path).map_err(failed(&path))?;
            }
            room = room.saturating_sub(bytes);
        }
        for (path, _) in self::files(saved)? {
            let file = path.file_name().unwrap_or_default();
            if file.to_string_lossy().starts_with(KEPT) {
                fs::copy(&path, minimal.join(file)).map_err(failed(&path))?;
            }
        }
        copy_afresh(&minimal, saved)
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// The files of a directory with their sizes; none when there is no directory.
fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(dir))?.path();
        let bytes = fs::metadata(&path).map_err(failed(&path))?.len();
        files.push((path, bytes));
    }
    Ok(files)
}

fn make_empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(failed(dir))?;
    }
    fs::create_dir_all(dir).map_err(failed(dir))
}

/// Makes `to` a directory with the files of `from` and no others.
fn copy_afresh(from: &Path, to: &Path) -> Result<()> {
    let contents: Vec<(PathBuf, Vec<u8>)> = files(from)?
        .into_iter()
        .map(|(path, _)| fs::read(&path).map(|bytes| (path.clone(), bytes)).map_err(failed(&path)))
        .collect::<Result<_>>()?;
    make_empty(to)?;
    for (path, bytes) in contents {
        let copy = to.join(path.file_name().unwrap_or_default());
        fs::write(&copy, bytes).map_err(failed(&copy))?;
    }
    Ok(())
}

/// What libFuzzer says at its end: `#123  DONE   cov: 45 ft: 67 corp: 8/90Kb ...`.
fn summary(name: &str, said: &str, seconds: u64) -> String {
    let done = said.lines().rfind(|line| line.contains("\tDONE ")).unwrap_or_default();
    let mut words = done.split_whitespace();
    let runs = words.next().unwrap_or("#0").trim_start_matches('#').to_owned();
    let after = |label: &str| {
        let mut words = done.split_whitespace().skip_while(|word| *word != label).skip(1);
        words.next().unwrap_or("?").to_owned()
    };
    let (coverage, corpus) = (after("cov:"), after("corp:"));
    format!("fuzz {name}: {runs} executions in {seconds} s, coverage {coverage}, corpus {corpus}")
}

fn failure(name: &str, said: &str, log: &Path) -> String {
    let written = said.lines().find_map(|line| line.split_once("Test unit written to "));
    let Some((_, input)) = written else {
        return format!("fuzz {name} failed without an input; it said: {}", log.display());
    };
    let why = said.lines().skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: libFuzzer"));
    let why: Vec<&str> = why.take(3).collect();
    format!(
        "fuzz {name} failed on {input}\n  {}\n  repeat: cargo xtask fuzz --target {name} --input {input}\n  \
         when it is mended, keep the input as fuzz/corpus/{name}/{KEPT}<what it shows>",
        why.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_what_is_none_is_named() {
        let parsed = Options::parse(&["--seconds", "5", "--target", "a"]);
        let expected = Options { seconds: 5, target: Some("a".to_owned()), input: None, save: false, at_once: AT_ONCE };
        assert_eq!(parsed, Ok(expected));
        assert_eq!(Options::parse(&["--seconds", "x"]), Err("--seconds x: not a number".to_owned()));
        assert_eq!(Options::parse(&["--seconds"]), Err("--seconds needs a value".to_owned()));
        assert_eq!(Options::parse(&["--input", "f"]), Err("--input needs --target".to_owned()));
        assert!(Options::parse(&["--all"]).is_err());
    }

    #[test]
    fn the_end_of_a_run_is_one_line() {
        let said = "#1\tINITED cov: 1 ft: 1\n#23\tDONE   cov: 45 ft: 67 corp: 8/90Kb lim: 99 exec/s: 4 rss: 36Mb\n";
        assert_eq!(summary("a", said, 2), "fuzz a: 23 executions in 2 s, coverage 45, corpus 8/90Kb");
    }

    #[test]
    fn a_failure_names_the_input_and_the_command() {
        let said = "thread '<unnamed>' panicked at src/a.rs:1:2:\nsum overflows\nartifact_prefix='x'; Test unit written to /x/crash-1\n";
        let failure = failure("a", said, Path::new("log"));
        assert!(failure.starts_with("fuzz a failed on /x/crash-1\n"), "{failure}");
        assert!(failure.contains("sum overflows"), "{failure}");
        assert!(failure.contains("cargo xtask fuzz --target a --input /x/crash-1\n"), "{failure}");
    }
}
