//! Commands, outcomes and entries: the bytes that gateways make, Raft replicates and the state machine
//! applies (`docs/internals/commands.md`). A leaf, because both tiers need exactly the same code.

pub mod command;
mod entry;
mod outcome;
pub mod wire;

pub use command::Command;
pub use entry::{EntryBuilder, EntryView, FEATURE_LEVEL, compact, slot_of, slots_in, time_of};
pub use outcome::{Appending, Connected, Outcome};
pub use wire::WireError;
