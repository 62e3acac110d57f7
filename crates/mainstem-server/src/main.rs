//! `mainstem`: the one binary. `serve` runs a server; all other commands but `demo` are clients of one.

mod cli;
mod config;
mod demo;
mod http;
mod kafka_listener;
mod pg_listener;
mod server;
mod table;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match cli::run(args) {
        Ok(code) => code,
        Err(error) if cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mainstem: {error:#}");
            ExitCode::FAILURE
        }
    }
}
