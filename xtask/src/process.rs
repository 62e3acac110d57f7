//! Running other programs: echoed, from the root of the workspace, failing with what was run.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;

/// Runs a program with the terminal's input and output.
pub(crate) fn run(root: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let line = shown(program, arguments);
    eprintln!("$ {line}");
    let status = Command::new(program).args(arguments).current_dir(root).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed: {status}")),
        Err(error) => Err(format!("`{line}` cannot be run: {error}")),
    }
}

/// What a program prints. Its errors go to the terminal.
pub(crate) fn output(root: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let line = shown(program, arguments);
    let output = Command::new(program).args(arguments).current_dir(root).stderr(Stdio::inherit()).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).map_err(|_| format!("`{line}` printed what is not UTF-8"))
        }
        Ok(output) => Err(format!("`{line}` failed: {}", output.status)),
        Err(error) => Err(format!("`{line}` cannot be run: {error}")),
    }
}

/// Whether a program runs and succeeds, without showing what it prints.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn shown(program: &str, arguments: &[&str]) -> String {
    std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<&str>>().join(" ")
}
