//! What apply tells the leader. Hints only: everything owed also stands in the state (S7).

/// Something the leader may want to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Messages were appended to an inbox: sessions with an interval over it have something to get.
    InboxGrew {
        /// The inbox.
        inbox: u64,
    },
    /// The intervals of a session changed, or it was attached.
    SessionChanged {
        /// The session.
        session: u64,
    },
    /// A newer CONNECT has the session.
    SessionTaken {
        /// The session.
        session: u64,
        /// Gateway epoch of the connection that lost it.
        gateway_epoch: u64,
        /// Its token.
        token: u64,
    },
    /// Messages were appended to a queue.
    QueueGrew {
        /// The queue.
        queue: u64,
    },
    /// Messages of a queue are to be given again.
    QueueReturned {
        /// The queue.
        queue: u64,
    },
    /// A queue was declared or deleted.
    QueueChanged {
        /// The queue.
        queue: u64,
    },
    /// A group was made, moved or deleted, or its members changed.
    GroupChanged {
        /// Its queue.
        queue: u64,
        /// The group.
        group: u64,
    },
    /// A dead letter is for a queue of another shard: see `Broker::owed_moves`.
    MoveOwed {
        /// The queue it died in.
        queue: u64,
    },
    /// A queue was bound to a filter, or is no longer: see `Broker::wanted`.
    BindingsChanged {
        /// Virtual host.
        vhost: Box<str>,
        /// Filter.
        filter: Box<str>,
    },
    /// A session waits for retained messages (R9): see `Session::replays`.
    ReplayWanted {
        /// The session.
        session: u64,
    },
    /// A session is gone. When it published with QoS 2, other shards are to forget its keys: see
    /// `Broker::ended_publishers`.
    SessionEnded {
        /// The session.
        session: u64,
    },
    /// A filter has its first persistent subscriber in this shard.
    FilterAdded {
        /// Virtual host.
        vhost: Box<str>,
        /// Filter.
        filter: Box<str>,
    },
    /// A filter has lost its last.
    FilterRemoved {
        /// Virtual host.
        vhost: Box<str>,
        /// Filter.
        filter: Box<str>,
    },
    /// A will is to be published.
    WillOwed {
        /// Its id among what is owed.
        id: u64,
    },
    /// A gateway registered or ended; meta.
    GatewaysChanged,
    /// Work is left that the step limit cut off: the leader proposes a TICK.
    More,
}
