//! Processes killed, stopped and cut off while clients use them, and what must hold then (design §1, §5, §6).
//!
//! The broker is what its bytes say: real processes ([`process`]), strict clients ([`client`], [`load`]), an account
//! kept by a process of its own ([`ledger`]) and judged at the end ([`check`]). `tests/short.rs` is the part of it that
//! `make test` runs; the program `chaos` runs each scenario as long as it is told (`make chaos`). Everything left to
//! chance follows a seed that is printed and accepted.

pub mod barrier;
pub mod check;
pub mod client;
pub mod disk;
pub mod handshakes;
pub mod inspector;
pub mod kill;
pub mod ledger;
pub mod load;
pub mod pair;
pub mod process;
pub mod proxy;
pub mod relay;
pub mod retained;
pub mod shared;
pub mod takeover;
pub mod wills;
