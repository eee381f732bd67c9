//! `fluxmq`: all of the broker in one process. Composition only; what it composes lives elsewhere.

mod app;
mod options;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match app::run(options::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(lines) => {
            for line in lines {
                eprintln!("error: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
