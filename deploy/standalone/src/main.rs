//! `fluxmq`: all of the broker in one process. Composition only; what it composes lives elsewhere.

mod app;

use std::process::ExitCode;

use clap::Parser;
use fluxmq_process::command_line::FluxmqOptions;
use fluxmq_process::startup;

fn main() -> ExitCode {
    let options = FluxmqOptions::parse();
    let again = options.clone();
    let reload = move || again.clone().settings();
    startup::exit(options.settings().and_then(|settings| app::run(&settings, reload)))
}
