//! The replicated state machine of a shard: queues, MQTT sessions, inboxes, retained messages, wills, producers.
//!
//! Pure and deterministic (design S6): [`Broker::apply`] depends on the entry and the state alone; no
//! clock, randomness, I/O, floats or hash order. It holds positions, never payloads. How sessions work
//! is told in `docs/internals/sessions.md`, how queues work in `docs/queues.md`, what an entry holds in `docs/internals/commands.md`.

mod backlog;
mod broker;
mod buckets;
pub mod connect;
mod effect;
mod filter_index;
mod inbox;
mod index;
pub mod limits;
mod order;
mod pages;
mod producer;
mod publish;
mod queue;
mod reads;
mod retained;
mod session;
mod settle;
mod space;
mod state;
mod subscribe;
mod timers;

pub use backlog::Excess;
pub use broker::{Applied, ApplyError, Broker, Snapshot};
pub use effect::Effect;
pub use inbox::Backlog;
pub use order::{DeliveryCursor, Owed};
pub use pages::Sink;
pub use queue::{
    Counters, GroupCursor, GroupStats, GroupView, LOOKED_BEYOND, Member, MovesTo, Moving,
    QueueMessage, QueueStats, Wants,
};
pub use retained::{Retained, RetainedLimits, RetainedPage};
pub use session::{Replay, Session, StoredWill, Subscription};
pub use state::OwedWill;
