//! The frames between a gateway and `logd` (`docs/internals/contract.md`).

mod queues;

use bytes::Bytes;
use fluxmq_commands::Outcome;
use fluxmq_names::ErrorCode;
use fluxmq_proto::v1::QueueInfo;

pub use queues::{
    Consume, LookAtQueues, QueueDelivery, QueueItem, QueuePage, ReadQueue, Settle, Settled,
    append_offset, delivery_bytes,
};

/// Commands of one stream, in sequence.
#[derive(Clone, Debug)]
pub struct Submit {
    /// The shard they are for.
    pub shard: u32,
    /// Sequence of the first.
    pub first_sequence: u64,
    /// All outcomes up to here were seen.
    pub confirmed_upto: u64,
    /// Where each command ends in `body`.
    pub ends: Vec<u32>,
    /// The commands.
    pub body: Bytes,
}

/// Messages between two gateways, flat: bodies end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    /// Gateway epoch of the other end: where it goes for the sender, where it is from for the receiver.
    pub peer: u64,
    /// Number of the first message; numbers of a pair of gateways have no gaps (R6).
    pub first: u64,
    /// Where each message ends in `body`.
    pub ends: Vec<u32>,
    /// PUBLISH commands with their messages.
    pub body: Bytes,
}

/// Who subscribes with a filter that is announced (R1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nobody any more.
    Gone,
    /// A shard with persistent sessions, or a gateway with live subscribers of any QoS.
    All,
    /// A shard with bound queues: it wants QoS 0 as well.
    Every,
    /// A gateway where only persistent sessions with QoS ≥ 1 are attached: it wants QoS 0 alone.
    Zero,
}

/// A filter and who stands behind it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Virtual host.
    pub vhost: String,
    /// Topic filter.
    pub filter: String,
    /// Who.
    pub class: Class,
}

/// Whose filters a delta is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Persistent sessions of a shard.
    Shard(u32),
    /// Live subscribers of another gateway, by its epoch.
    Gateway(u64),
}

/// Changes of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Whose.
    pub source: Source,
    /// What is not in it is gone.
    pub full: bool,
    /// The changes.
    pub changes: Vec<Change>,
}

// === impl Delta ===

impl Delta {
    /// Changes of `source`, or all it has.
    #[must_use]
    pub fn new(source: Source, full: bool, changes: Vec<Change>) -> Self {
        Self { source, full, changes }
    }
}

/// How a client id is registered at its shard (G1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Only asks whether there is anything durable: the gateway is the only one.
    Look,
    /// The newest connection of the id; who had it before is told, and the answer waits until he is gone.
    New,
    /// It was registered before the link was lost, or before there were other gateways.
    Again,
}

/// Who is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It routes by a table: it has a lease, is told of all filters, and a SUBACK waits for it.
    Gateway,
    /// A program that uses the log directly: it has an epoch under which it says things again, and no routes.
    Program,
}

/// What a gateway or a program says.
#[derive(Clone, Debug)]
pub enum Request {
    /// First: who it is. Answered by [`Event::Welcome`].
    Hello {
        /// Name of the gateway; a second one of that name ends the first.
        name: String,
        /// Its epoch when it comes back, else 0.
        epoch: u64,
        /// What it is.
        role: Role,
    },
    /// Commands for a shard.
    Submit(Submit),
    /// The connection of a client id. Answered by [`Event::Registered`], except for `Again`.
    Register {
        /// The connection.
        token: u64,
        /// Shard of the session.
        shard: u32,
        /// Virtual host.
        vhost: String,
        /// Client id.
        client_id: String,
        /// How.
        how: Registration,
    },
    /// The connection is gone, and everything it published is answered.
    Unregister {
        /// The connection.
        token: u64,
    },
    /// Deliver what the session is owed, under the credit given. Answered by [`Event::Opened`].
    Open {
        /// The connection, as in CONNECT.
        token: u64,
        /// Shard of the session.
        shard: u32,
        /// The session.
        session: u64,
        /// Its epoch.
        epoch: u64,
        /// Numbers below are with the connection already: a link that was lost does not repeat them.
        from: u64,
    },
    /// Deliver nothing more.
    Close {
        /// The connection.
        token: u64,
    },
    /// So many messages more may be on their way to the connection.
    Credit {
        /// The connection.
        token: u64,
        /// Messages.
        count: u32,
    },
    /// So many bytes of deliveries were taken (T3).
    Window {
        /// Bytes.
        bytes: u32,
    },
    /// Filters of live subscribers. Answered by [`Event::Done`] when every party knows them and everything
    /// that was applied before (R4); without changes it is a barrier.
    Announce {
        /// Comes back.
        id: u64,
        /// What is not in it is gone.
        full: bool,
        /// The changes.
        changes: Vec<Change>,
    },
    /// All deltas up to this version are in the routes.
    Ack {
        /// Version.
        version: u64,
    },
    /// Asks for a new lease (R2). Answered by [`Event::Lease`], or not at all.
    Renew {
        /// Comes back.
        nonce: u64,
    },
    /// The gateway goes for good: its lease ends now.
    Leave,
    /// Messages for live subscribers of another gateway.
    Relay(Relay),
    /// Everything another gateway relayed up to a number was taken.
    RelayTaken {
        /// Epoch of the source.
        peer: u64,
        /// Number of the last.
        upto: u64,
    },
    /// Retained messages, a page. Answered by [`Event::Retained`].
    ReadRetained {
        /// Comes back.
        id: u64,
        /// The shard that is asked.
        shard: u32,
        /// Virtual host.
        vhost: String,
        /// Topics that match.
        filter: String,
        /// Topics behind this one.
        after: String,
    },
    /// A consumer of a queue.
    Consume(Consume),
    /// All its consumers were named: what they do not hold may be given to others (Q2).
    Presented,
    /// What a consumer says of its messages.
    Settle(Settle),
    /// A consumer keeps what it has of these offsets for another lease.
    Extend {
        /// The consumer.
        token: u64,
        /// First offset.
        first: u64,
        /// How many.
        count: u32,
    },
    /// Asks for messages of a queue.
    ReadQueue(ReadQueue),
    /// Asks how queues are.
    LookAtQueues(LookAtQueues),
    /// A message of a program for live subscribers of all gateways: a PUBLISH command. Answered by
    /// [`Event::LiveTaken`] when all have it.
    SendLive {
        /// Comes back.
        id: u64,
        /// Routing header and message.
        command: Bytes,
    },
}

/// A subscription of a session that is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Topic filter.
    pub filter: String,
    /// MQTT 5 options byte.
    pub options: u8,
    /// Subscription identifier, 0 = none.
    pub identifier: u32,
    /// What its gateway keeps with it.
    pub more: String,
}

/// What a delivery weighs in the window of bytes besides its command.
pub const DELIVERY_OVERHEAD_BYTES: u32 = 64;

/// A message for a connection.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The connection.
    pub token: u64,
    /// Rank in the session's order; gives the packet id (G3).
    pub number: u64,
    /// QoS to deliver with.
    pub qos: u8,
    /// Retain flag to deliver with.
    pub retain: bool,
    /// It may have been sent before.
    pub dup: bool,
    /// Its PUBREC was taken: PUBREL is to be sent, not PUBLISH.
    pub release: bool,
    /// Subscription identifiers.
    pub identifiers: Vec<u32>,
    /// The PUBLISH command: routing header and message.
    pub command: Bytes,
}

/// What `logd` says.
#[derive(Clone, Debug)]
pub enum Event {
    /// Answers [`Request::Hello`], behind the full sets of all other parties.
    Welcome {
        /// The gateway's epoch.
        gateway_epoch: u64,
        /// Number of data shards.
        shards: u32,
        /// The epoch that was asked for goes on; else everything the gateway had is lost.
        resumed: bool,
        /// How long the lease holds, ms from the sending of the Hello; 0 = as long as the process.
        lease_ms: u32,
    },
    /// Outcomes of commands, in sequence.
    Outcomes {
        /// The shard.
        shard: u32,
        /// Sequence of the first.
        first_sequence: u64,
        /// One for each command.
        outcomes: Vec<Outcome>,
    },
    /// The commands from `first_sequence` on were not taken.
    Refused {
        /// The shard.
        shard: u32,
        /// Sequence of the first.
        first_sequence: u64,
        /// How many.
        count: u32,
        /// Why.
        code: ErrorCode,
    },
    /// Answers [`Request::Register`].
    Registered {
        /// As asked.
        token: u64,
        /// There is a durable session.
        exists: bool,
    },
    /// Answers [`Request::Open`]; None when the session or its epoch is gone.
    Opened {
        /// As asked.
        token: u64,
        /// The session's subscriptions.
        subscriptions: Option<Vec<Subscribed>>,
    },
    /// Messages for connections.
    Deliveries(Vec<Delivery>),
    /// Another connection has the client id now.
    Taken {
        /// The connection that lost it.
        token: u64,
        /// Its client id.
        client_id: String,
    },
    /// Filters of others changed; to be acknowledged when the routes have them.
    Deltas {
        /// Version.
        version: u64,
        /// By source.
        deltas: Vec<Delta>,
    },
    /// Whether other gateways exist. When they do, everything is announced in full, then each change;
    /// when they do not, nothing is.
    Others(bool),
    /// Answers [`Request::Announce`].
    Done {
        /// As asked.
        id: u64,
    },
    /// Answers [`Request::Renew`].
    Lease {
        /// As asked.
        nonce: u64,
        /// How long it holds, ms from the sending of the request.
        lease_ms: u32,
    },
    /// A gateway is gone for good: it takes nothing more, and nothing comes from it.
    GatewayGone {
        /// Its epoch.
        epoch: u64,
    },
    /// Messages of another gateway for live subscribers.
    Relay(Relay),
    /// Another gateway took everything up to a number.
    RelayTaken {
        /// Its epoch.
        peer: u64,
        /// Number of the last.
        upto: u64,
    },
    /// Another gateway lost its link and came back: what it did not take is to be sent again (R6).
    Resend {
        /// Its epoch.
        peer: u64,
    },
    /// Answers [`Request::ReadRetained`].
    Retained {
        /// As asked.
        id: u64,
        /// PUBLISH commands, by topic.
        commands: Vec<Bytes>,
        /// Ask again behind the last topic.
        more: bool,
    },
    /// A message for live subscribers from `logd` itself: the PUBLISH command.
    Live {
        /// Routing header and message.
        command: Bytes,
    },
    /// Answers [`Request::SendLive`].
    LiveTaken {
        /// As asked.
        id: u64,
    },
    /// Answers [`Request::Consume`].
    Consuming {
        /// As asked.
        token: u64,
        /// Why not.
        error: Option<ErrorCode>,
    },
    /// A consumer is none any more: its queue, group or membership is gone, or it is fenced.
    ConsumerEnded {
        /// The consumer.
        token: u64,
        /// Why.
        code: ErrorCode,
    },
    /// Whether a member of a group with one active member is the active one (Q4).
    Active {
        /// The consumer.
        token: u64,
        /// It gets the messages.
        active: bool,
        /// Fencing token of who does.
        epoch: u64,
    },
    /// Messages for consumers.
    QueueDeliveries(Vec<QueueDelivery>),
    /// Answers [`Request::Settle`].
    Settled(Settled),
    /// Answers [`Request::ReadQueue`].
    QueuePage(QueuePage),
    /// Answers [`Request::LookAtQueues`].
    Queues {
        /// As asked.
        id: u64,
        /// The queues, by name.
        queues: Vec<QueueInfo>,
        /// Ask again behind the last name.
        more: bool,
    },
}
