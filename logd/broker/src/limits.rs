//! Limits of a shard. They are part of the state machine: the same on every node, changed only by an
//! entry (S6). Each names the error that says it was reached.

/// Commands' steps between two chances to do something else (S11); also the most one command does.
pub const STEPS_MAX: u32 = 10_000;
/// Sessions of a shard; `LimitExceeded`.
pub const SESSIONS_MAX: usize = 2_000_000;
/// Open and closing intervals of a session (Q0); the filter is refused with 0x97.
pub const INTERVALS_MAX: usize = 1_024;
/// Inboxes of a shard (R1); the filter is refused with 0x97.
pub const INBOXES_MAX: usize = 2_000_000;
/// Retained messages of a shard; `LimitExceeded`.
pub const RETAINED_MAX: usize = 10_000_000;
/// Open QoS 2 packet ids of a session (G2); `LimitExceeded`.
pub const INFLIGHT_IN_MAX: usize = 256;
/// Sources whose keys a shard remembers (G2); `LimitExceeded`.
pub const KEYS_MAX: usize = 100_000;
/// Keys of owed effects of other shards that are remembered, oldest forgotten first.
pub const OWED_KEYS_MAX: usize = 100_000;
/// Outcomes recorded for a producer that does not confirm; `LimitExceeded`.
pub const OUTCOMES_MAX: usize = 65_536;
/// Producers of one gateway epoch; `LimitExceeded`.
pub const STREAMS_MAX: usize = 1_024;
/// The largest outgoing window that dropping spares (G3).
pub const WINDOW_MAX: u16 = 1_000;
/// Messages in a block of an inbox (S5).
pub const BLOCK_MESSAGES: u16 = 128;
