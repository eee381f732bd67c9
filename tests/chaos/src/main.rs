//! `chaos`: one scenario, as long as it is told. What it prints is its result.
#![allow(clippy::print_stdout)]

mod long;

use std::path::PathBuf;
use std::process::ExitCode;

use chaos::kill::{self, Plan, Target};
use chaos::{ledger, shared, takeover};
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Of everything left to chance.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Data shards.
    #[arg(long, global = true, default_value_t = 2)]
    shards: u32,
}

#[derive(Subcommand)]
enum What {
    /// The ledger's process.
    #[command(hide = true)]
    Ledger {
        /// Where it writes.
        file: PathBuf,
        /// Where it listens.
        socket: PathBuf,
    },
    /// Processes are killed, stopped, drained or cut off under load.
    Kill {
        /// What happens to whom.
        target: Target,
        /// How often.
        #[arg(long, default_value_t = 100)]
        rounds: u64,
    },
    /// Publishes behind a SUBACK on another gateway; a delayed hub; a stopped gateway.
    Subscribe {
        /// Fresh topics.
        #[arg(long, default_value_t = 10_000)]
        topics: u64,
    },
    /// Client ids go from gateway to gateway.
    Takeover {
        /// Client ids.
        #[arg(long, default_value_t = 100)]
        ids: u64,
        /// Takeovers of each.
        #[arg(long, default_value_t = 100)]
        takeovers: u64,
    },
    /// Wills of gateways that die.
    Wills {
        /// Clients with a will.
        #[arg(long, default_value_t = 1_000)]
        wills: u64,
    },
    /// Kills at every step of both QoS 2 handshakes.
    Handshakes {
        /// How often each case.
        #[arg(long, default_value_t = 5)]
        rounds: u64,
    },
    /// Retained messages against subscriptions, and messages between gateways.
    Routes {
        /// How often each.
        #[arg(long, default_value_t = 1_000)]
        rounds: u64,
    },
    /// Members of a shared subscription are killed while messages pass.
    Shared {
        /// Messages of QoS 1.
        #[arg(long, default_value_t = 200_000)]
        messages: u64,
        /// How often a member or a gateway is killed.
        #[arg(long, default_value_t = 60)]
        kills: u64,
    },
}

fn main() -> ExitCode {
    let Arguments { what, seed, shards } = Arguments::parse();
    if let What::Ledger { file, socket } = &what {
        return match ledger::serve(file, socket) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    println!("seed {seed}, shards {shards}");
    let good = match what {
        What::Ledger { .. } => true,
        What::Kill { target, rounds } => {
            let plan = Plan { target, rounds, seed, shards, long_stops: true };
            let outcome = kill::run(plan, &mut |line| println!("{line}"));
            println!("{outcome}");
            outcome.is_good()
        }
        What::Subscribe { topics } => long::subscribe(shards, topics),
        What::Takeover { ids, takeovers } => {
            long::takeover(shards, takeover::Plan { ids, takeovers, seed })
        }
        What::Wills { wills } => long::wills(shards, wills),
        What::Handshakes { rounds } => long::handshakes(shards, rounds),
        What::Routes { rounds } => long::routes(shards, rounds),
        What::Shared { messages, kills } => {
            let plan = shared::Plan { messages, kills, gateway_every: 10, lease_ends: true, seed };
            long::shared(shards, plan)
        }
    };
    println!("{}", if good { "good" } else { "NOT GOOD" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
