//! Limits of a shard. They are part of the state machine: the same on every node, changed only by an
//! entry (S6). Each names the error that says it was reached.

/// The most steps one command does (S11): what is more goes on with later entries.
pub const STEPS_MAX: u32 = 10_000;
/// Of those, what is kept for counting the last ones when the work has stopped.
pub const STEPS_RESERVE: u32 = 500;
/// Steps that finding out how much of a window there is may take; who has more counts as if it were full.
pub const LOOK_STEPS: u32 = 2_000;
/// Inboxes and queues one publish goes to; it is refused with `LimitExceeded` if more match.
pub const MATCHES_MAX: usize = 4_000;
/// Registered gateways (meta); `LimitExceeded`.
pub const GATEWAYS_MAX: usize = 4_096;
/// Queues of a shard; `LimitExceeded`.
pub const QUEUES_MAX: usize = 100_000;
/// Topic filters bound to a queue; `LimitExceeded`.
pub const BINDINGS_MAX: usize = 1_024;
/// Consumer groups of a queue; `LimitExceeded`.
pub const GROUPS_MAX: usize = 256;
/// Members of a group; `LimitExceeded`.
pub const MEMBERS_MAX: usize = 1_024;
/// Priorities of a queue; a declaration with more is `InvalidArgument`.
pub const LEVELS_MAX: u8 = 32;
/// Blocks of acknowledgements and messages of other verdicts in one settlement; `InvalidArgument`.
pub const VERDICTS_MAX: u64 = 250;
/// Messages of a group that were returned and are not settled; `LimitExceeded` for another.
pub const RETURNED_MAX: u64 = 100_000;
/// Queues one message is for; `LimitExceeded` if more are bound to its topic, or if their groups make it
/// more than the steps of a command.
pub const TARGETS_MAX: usize = 1_000;
/// Messages and verdicts of one transaction; `InvalidArgument`.
pub const TRANSACTION_MAX: usize = 1_000;
/// Stretches of messages that an expiry spares; `InvalidArgument`.
pub const SPARED_MAX: usize = 4_096;
/// Messages of a queue whose time has not come; `LimitExceeded`.
pub const SCHEDULED_MAX: usize = 1_000_000;
/// Message ids a queue remembers within its window; `LimitExceeded`.
pub const DEDUP_IDS_MAX: usize = 1_000_000;
/// Named producers of a queue whose sequences are remembered; `LimitExceeded`.
pub const PRODUCERS_MAX: usize = 10_000;
/// Keys of a compacted queue; `LimitExceeded`.
pub const KEYS_PER_QUEUE_MAX: usize = 1_000_000;
/// Queues a message dies in before it is dropped, and counted.
pub const DEAD_LETTER_HOPS_MAX: u8 = 8;
/// Sessions of a shard; `LimitExceeded`.
pub const SESSIONS_MAX: usize = 2_000_000;
/// Open and closing intervals of a session (Q0); the filter is refused with 0x97.
pub const INTERVALS_MAX: usize = 1_024;
/// Inboxes of a shard (R1); the filter is refused with 0x97.
pub const INBOXES_MAX: usize = 2_000_000;
/// Retained messages of a shard, whatever its limits say; `LimitExceeded`.
pub const RETAINED_MAX: u64 = 10_000_000;
/// Open QoS 2 packet ids of a session (G2); `LimitExceeded`.
pub const INFLIGHT_IN_MAX: usize = 256;
/// From the lowest open publish number of a session to its next one (G2): a shard remembers 64 bytes of
/// bits for each; QOS2_OPEN is refused with `LimitExceeded`, a publish with a number beyond it with
/// `InvalidArgument`.
pub const QOS2_SPREAD_MAX: u64 = 512;
/// Numbers whose PUBREC one SETTLE may report; `InvalidArgument`.
pub const RECEIVED_MAX: u64 = 4_096;
/// Ended sessions that other shards are still to forget; the oldest is crossed off beyond it.
pub const ENDED_PUBLISHERS_MAX: usize = 100_000;
/// Shared subscriptions and queues of a session; the filter is refused with 0x97.
pub const SESSION_QUEUES_MAX: usize = 64;
/// Replays of retained messages that a session waits for (R9); the filter is refused with 0x97.
pub const REPLAYS_MAX: usize = 1_024;
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
