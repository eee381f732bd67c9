//! Commands: what a slot of an entry says (`docs/internals/commands.md`). Operation numbers are stored:
//! 1–99 base, 100–199 sessions, 200–299 queues, 300–399 topology; none is ever used again.

mod decode;
mod encode;
pub mod queue;

pub use decode::decode;
use decode::list;
use queue::{Options, QueueCommand};

/// Bytes before the attributes.
const HEADER: usize = 16;

macro_rules! operations {
    ($($name:ident = $op:literal,)+) => {
        mod op { $(pub(crate) const $name: u16 = $op;)+ }
    };
}

operations! {
    BATCH = 1,
    TICK = 2,
    PUBLISH = 10,
    GATEWAY_REGISTER = 20,
    GATEWAY_ENDED = 21,
    END_GATEWAYS_BEFORE = 22,
    OWED_DONE = 30,
    FORGET_KEYS = 31,
    KEYS_FORGOTTEN = 32,
    RETAINED_LIMITS = 33,
    CONNECT = 100,
    DISCONNECT = 101,
    SUBSCRIBE = 102,
    UNSUBSCRIBE = 103,
    SETTLE = 104,
    QOS2_OPEN = 105,
    QOS2_CLOSE = 106,
    SENT_UPTO = 107,
    TRIM = 108,
    DROP = 109,
    REPLAY_AT = 111,
    QUEUE_DECLARE = 200,
    QUEUE_DELETE = 201,
    QUEUE_PURGE = 202,
    QUEUE_BIND = 203,
    ENQUEUE = 204,
    QUEUE_SETTLE = 205,
    CANCEL_SCHEDULED = 206,
    GROUP_CREATE = 207,
    GROUP_DELETE = 208,
    GROUP_SEEK = 209,
    GROUP_COPY = 210,
    GROUP_JOIN = 211,
    GROUP_LEAVE = 212,
    QUEUE_EXPIRE = 213,
    MOVED = 214,
    QUEUE_TOUCH = 215,
    TRANSACTION = 216,
    QUEUE_GIVE = 217,
}

/// Head of a batch of commands of one producer (Q1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// 0 = the leader of the shard itself.
    pub gateway_epoch: u64,
    /// Stream of the gateway.
    pub stream: u32,
    /// Sequence of the first command, from 1.
    pub first_sequence: u64,
    /// Commands that follow.
    pub count: u32,
    /// crc32 of the commands' bytes, made by the gateway.
    pub crc: u32,
    /// The gateway has seen the outcomes up to here.
    pub confirmed_upto: u64,
}

/// Where a message comes from that must be taken once (G2, S7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Shard of the source.
    pub shard: u32,
    /// Session or owed effect in it.
    pub id: u64,
    /// Publish number; 0 for owed effects.
    pub n: u64,
}

/// The routing header of a published message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    /// As published, 0–2.
    pub qos: u8,
    /// Retain flag as published.
    pub retain: bool,
    /// This shard keeps it as the topic's retained message.
    pub store: bool,
    /// The payload is empty: a retained message is deleted.
    pub empty: bool,
    /// Virtual host.
    pub vhost: &'a str,
    /// Topic in MQTT form.
    pub topic: &'a str,
    /// Absolute expiry, Unix ms.
    pub expiry_ms: Option<u64>,
    /// Taken once under this key.
    pub key: Option<Key>,
    /// Publish numbers of the key's source below this are closed.
    pub lowest_open: Option<u64>,
    /// Shard and id of the publishing session (no local).
    pub publisher: Option<(u32, u64)>,
    /// For the private list of one session instead of all whose filters match (Q0); leaders only.
    pub list: Option<ToList<'a>>,
    /// What it asks of the queues that are bound to the topic.
    pub options: Options<'a>,
    /// From gateway to gateway: the shared subscriptions that the receiver is to serve, eight bytes each.
    pub groups: &'a [u8],
}

// === impl Publish ===

impl Publish<'_> {
    /// The shared subscriptions that the receiver is to serve.
    pub fn groups(&self) -> impl Iterator<Item = u64> {
        self.groups.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// A message that the leader of a session's shard copies into the session's private list (Q0, R9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToList<'a> {
    /// The session.
    pub session: u64,
    /// The replay it is a part of, whose cursor moves to the topic; 0 = none.
    pub replay: u64,
    /// The shard that the retained message is from.
    pub shard: u32,
    /// The position of the retained message in that shard.
    pub source: u64,
    /// Subscription identifiers it is delivered with, four bytes each.
    pub identifiers: &'a [u8],
}

// === impl ToList ===

impl ToList<'_> {
    /// The subscription identifiers.
    pub fn identifiers(&self) -> impl Iterator<Item = u32> {
        self.identifiers.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

/// The will of a CONNECT; its message is the command's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// QoS it is published with.
    pub qos: u8,
    /// Published as retained.
    pub retain: bool,
    /// Will delay interval.
    pub delay_s: u32,
    /// Message expiry from its publication, 0 = none.
    pub expiry_s: u32,
    /// Where to.
    pub topic: &'a str,
}

/// Expiry of a session that never ends by time.
pub const NEVER: u32 = u32::MAX;

/// A CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Virtual host.
    pub vhost: &'a str,
    /// Client identifier.
    pub client_id: &'a str,
    /// What there was is thrown away.
    pub clean_start: bool,
    /// Session expiry interval; [`NEVER`].
    pub expiry_s: u32,
    /// Messages in flight to the client.
    pub window: u16,
    /// The gateway's name for the connection.
    pub token: u64,
    /// The will.
    pub will: Option<Will<'a>>,
}

/// What numbers of a session's order reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// First number.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// PUBREC came, PUBCOMP is to come; else settled.
    pub received: bool,
}

/// A subscription that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// MQTT 5 options byte.
    pub options: u8,
    /// Subscription identifier, 0 = none.
    pub identifier: u32,
    /// Topic filter.
    pub filter: &'a str,
    /// What else was asked for: a text of the gateway's, kept with the subscription. At most [`MORE_BYTES_MAX`].
    pub more: &'a str,
}

/// Bytes of what is kept with a subscription besides.
pub const MORE_BYTES_MAX: usize = 1_024;

/// Bit of the options byte that says that more stands behind the filter; MQTT leaves it at 0.
pub const WITH_MORE: u8 = 0x40;

/// A command, borrowed from its entry.
#[allow(missing_docs)] // the fields are those of docs/internals/commands.md
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Batch(Batch),
    Tick,
    Publish(Publish<'a>),
    GatewayRegister {
        name: &'a str,
        address: &'a str,
    },
    GatewayEnded {
        epoch: u64,
    },
    EndGatewaysBefore {
        epoch: u64,
    },
    OwedDone {
        id: u64,
    },
    Connect(Connect<'a>),
    Disconnect {
        session: u64,
        epoch: u64,
        publish_will: bool,
        expiry_s: Option<u32>,
        sent_upto: u64,
    },
    Subscribe {
        session: u64,
        epoch: u64,
        filters: Vec<Wanted<'a>>,
    },
    Unsubscribe {
        session: u64,
        epoch: u64,
        filters: Vec<&'a str>,
    },
    Settle {
        session: u64,
        epoch: u64,
        sent_upto: u64,
        ranges: Vec<Settled>,
    },
    Qos2Open {
        session: u64,
        epoch: u64,
        packet_id: u16,
    },
    Qos2Close {
        session: u64,
        epoch: u64,
        packet_id: u16,
    },
    SentUpto {
        session: u64,
        epoch: u64,
        number: u64,
    },
    Trim {
        session: u64,
        number: u64,
    },
    Drop {
        session: u64,
        ranges: Vec<(u64, u32)>,
    },
    ReplayAt {
        session: u64,
        replay: u64,
        shard: u32,
        after: &'a str,
        progress: Progress,
    },
    ForgetKeys {
        shard: u32,
        ids: Vec<u64>,
    },
    KeysForgotten {
        ids: Vec<u64>,
    },
    RetainedLimits {
        messages: u64,
        bytes: u64,
    },
    Queue(QueueCommand<'a>),
}

/// How far a replay of retained messages is (R9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything of the shard up to a topic was looked at.
    Upto,
    /// Nothing more comes from the shard.
    ShardDone,
    /// Nothing more comes from any shard: the replay is crossed off.
    Done,
}

#[cfg(test)]
mod tests;
