//! Parts of the broker by themselves, as cases that both criterion (time, `benches/parts.rs`) and callgrind
//! (instructions, `src/main.rs` and `instructions.sh`) run. No network, no disk, no runtime: what they cost is
//! the same on every run but for the seeds of hash tables.

mod codec;
mod log;
mod routing;
mod state_machine;

/// Something to measure.
pub struct Case {
    /// Its name in the tables.
    pub name: &'static str,
    /// Operations (messages, look-ups) that one call does.
    pub operations: u64,
    /// Calls under callgrind: enough that what the seeds of hash tables change does not show.
    pub calls: u64,
    /// Prepares it; what comes back is called again and again. It bounds its own memory.
    pub prepare: fn() -> Box<dyn FnMut()>,
}

/// Bytes of payload in every case: that of the rows of `docs/performance.md`.
const PAYLOAD: [u8; 256] = [0x5A; 256];

/// All cases.
pub const CASES: &[Case] = &[
    Case { name: "decode_publish", operations: 1, calls: 5000, prepare: codec::decode },
    Case { name: "encode_publish", operations: 1, calls: 5000, prepare: codec::encode },
    Case { name: "trie_10000_filters", operations: 1, calls: 5000, prepare: routing::trie },
    Case { name: "route_cached", operations: 1, calls: 5000, prepare: routing::cached },
    Case { name: "fan_out_50", operations: 50, calls: 100, prepare: routing::fan_out },
    Case {
        name: "flat_batch_encode",
        operations: 100,
        calls: 100,
        prepare: state_machine::encode_batch,
    },
    Case {
        name: "flat_batch_decode",
        operations: 100,
        calls: 100,
        prepare: state_machine::decode_batch,
    },
    Case { name: "apply_publish", operations: 100, calls: 100, prepare: state_machine::apply },
    Case { name: "read_owed", operations: 100, calls: 100, prepare: state_machine::read_owed },
    Case { name: "append", operations: 1, calls: 100, prepare: log::append },
    Case { name: "read_entries", operations: 1, calls: 100, prepare: log::read },
];
