//! What a queue is declared with.

use super::{Sharing, one_of};
use crate::wire::{Reader, WireError, Write};

/// How long a queue keeps its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// Until every group has settled them (work queue).
    #[default]
    Acked,
    /// As long as age, count and bytes allow, settled or not (stream).
    Policy,
}

/// What happens to a message that finds its queue full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest go.
    #[default]
    DropHead,
    /// The new one is refused.
    Reject,
    /// The oldest go to the dead-letter queue.
    DeadLetter,
}

/// What must be true before a publish to the queue is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is synced on a majority of the voters.
    #[default]
    Quorum,
    /// It is in the memory of a majority.
    Replicated,
}

/// Arguments of a queue; 0 and "" say nothing. A declaration with others than the queue has is refused with
/// `AlreadyExists`, whose detail has bit n for the n-th field of [`Arguments::FIELDS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arguments<'a> {
    /// Work queue or stream.
    pub retention: Retention,
    /// What an acknowledgement says.
    pub durability: Durability,
    /// What becomes of what is too much.
    pub overflow: Overflow,
    /// Messages at most.
    pub max_messages: u64,
    /// Bytes of messages at most.
    pub max_bytes: u64,
    /// Age at most, ms; streams.
    pub max_age_ms: u64,
    /// Messages expire so long after they came.
    pub message_ttl_ms: u64,
    /// The queue is deleted when nobody used it for so long.
    pub expires_ms: u64,
    /// A message that was returned so often is dead-lettered.
    pub delivery_limit: u32,
    /// First pause before a message is given again, ms; doubled each time.
    pub backoff_ms: u32,
    /// Longest pause.
    pub backoff_max_ms: u32,
    /// Priorities 0 to `levels` - 1; at most 32.
    pub levels: u8,
    /// Message ids are remembered so long, and repeats dropped.
    pub dedup_window_ms: u64,
    /// Of the messages of one key only the newest is kept.
    pub compact: bool,
    /// Deleted when the last member leaves.
    pub auto_delete: bool,
    /// Not listed: it belongs to a shared subscription (R10).
    pub hidden: bool,
    /// How the group `default` of a work queue shares its messages.
    pub sharing: Sharing,
    /// Where dead letters go: a queue of the same vhost.
    pub dead_letter: &'a str,
}

// === impl Arguments ===

impl<'a> Arguments<'a> {
    /// Names of the fields, in the order of the bits of a difference.
    pub const FIELDS: [&'static str; 18] = [
        "retention",
        "durability",
        "overflow",
        "max_messages",
        "max_bytes",
        "max_age_ms",
        "message_ttl_ms",
        "expires_ms",
        "delivery_limit",
        "backoff_ms",
        "backoff_max_ms",
        "levels",
        "dedup_window_ms",
        "compact",
        "auto_delete",
        "hidden",
        "sharing",
        "dead_letter",
    ];

    fn numbers(&self) -> [u64; 17] {
        [
            self.retention as u64,
            self.durability as u64,
            self.overflow as u64,
            self.max_messages,
            self.max_bytes,
            self.max_age_ms,
            self.message_ttl_ms,
            self.expires_ms,
            self.delivery_limit.into(),
            self.backoff_ms.into(),
            self.backoff_max_ms.into(),
            self.levels.into(),
            self.dedup_window_ms,
            self.compact.into(),
            self.auto_delete.into(),
            self.hidden.into(),
            self.sharing as u64,
        ]
    }

    /// Bit n for each field that differs; 0 = they are the same.
    #[must_use]
    pub fn difference(&self, other: &Arguments<'_>) -> u64 {
        let pairs = self.numbers().into_iter().zip(other.numbers()).enumerate();
        let numbers = pairs.map(|(n, (a, b))| u64::from(a != b) << n).sum::<u64>();
        numbers | u64::from(self.dead_letter != other.dead_letter) << 17
    }

    /// Appends them to `out`: seventeen variable length numbers and the dead-letter queue.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.numbers().into_iter().for_each(|n| out.put_var(n));
        out.put_str(self.dead_letter);
    }

    /// Reads them.
    ///
    /// # Errors
    /// Values that do not exist.
    pub fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let mut n = [0; 17];
        for value in &mut n {
            *value = r.var()?;
        }
        let small = |at: usize| u32::try_from(n[at]).map_err(|_| WireError("argument too large"));
        Ok(Self {
            retention: one_of(n[0], &[Retention::Acked, Retention::Policy])?,
            durability: one_of(n[1], &[Durability::Quorum, Durability::Replicated])?,
            overflow: one_of(n[2], &[Overflow::DropHead, Overflow::Reject, Overflow::DeadLetter])?,
            max_messages: n[3],
            max_bytes: n[4],
            max_age_ms: n[5],
            message_ttl_ms: n[6],
            expires_ms: n[7],
            delivery_limit: small(8)?,
            backoff_ms: small(9)?,
            backoff_max_ms: small(10)?,
            levels: u8::try_from(n[11]).map_err(|_| WireError("too many priorities"))?,
            dedup_window_ms: n[12],
            compact: n[13] != 0,
            auto_delete: n[14] != 0,
            hidden: n[15] != 0,
            sharing: Sharing::from_number(n[16])?,
            dead_letter: r.str()?,
        })
    }
}
