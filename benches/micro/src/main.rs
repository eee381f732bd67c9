//! Runs one case so many times: `micro CASE CALLS`. Without arguments it lists the cases, each with its
//! operations a call and calls for callgrind. `instructions.sh` runs it under callgrind.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        micro::CASES.iter().for_each(|c| println!("{} {} {}", c.name, c.operations, c.calls));
        return ExitCode::SUCCESS;
    };
    let calls = arguments.next().and_then(|n| n.parse::<u64>().ok());
    let (Some(case), Some(calls)) = (micro::CASES.iter().find(|c| c.name == name), calls) else {
        eprintln!("usage: micro [CASE CALLS]");
        return ExitCode::FAILURE;
    };
    let mut call = (case.prepare)();
    (0..calls).for_each(|_| call());
    ExitCode::SUCCESS
}
