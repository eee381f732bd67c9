//! The frames between a gateway and `logd` (`docs/internals/contract.md`).

use bytes::Bytes;
use fluxmq_commands::Outcome;
use fluxmq_names::ErrorCode;

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

/// What a gateway says.
#[derive(Clone, Debug)]
pub enum Request {
    /// First: who it is. Answered by [`Event::Welcome`].
    Hello {
        /// Name of the gateway; a second one of that name ends the first.
        name: String,
    },
    /// Commands for a shard.
    Submit(Submit),
    /// Is there anything durable of this client? Answered by [`Event::Looked`].
    Look {
        /// Comes back.
        token: u64,
        /// Shard of the session.
        shard: u32,
        /// Virtual host.
        vhost: String,
        /// Client id.
        client_id: String,
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
    /// Answered by [`Event::Barrier`] when everything applied before is known to every gateway (R4).
    Barrier {
        /// Comes back.
        id: u64,
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
}

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
    /// Answers [`Request::Hello`].
    Welcome {
        /// The gateway's epoch.
        gateway_epoch: u64,
        /// Number of data shards.
        shards: u32,
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
    /// Answers [`Request::Look`].
    Looked {
        /// As asked.
        token: u64,
        /// There is a session.
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
    /// Another connection has the session now.
    Taken {
        /// The connection that lost it.
        token: u64,
    },
    /// Filters of persistent sessions with QoS ≥ 1 in a shard.
    Filters {
        /// The shard.
        shard: u32,
        /// Virtual host and filter, and whether it is there.
        changes: Vec<(String, String, bool)>,
    },
    /// Answers [`Request::Barrier`].
    Barrier {
        /// As asked.
        id: u64,
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
}
