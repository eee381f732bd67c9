//! The seam between a group and whatever carries its frames to the other voters.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use fluxmq_names::ShardId;

/// A frame for another voter.
#[derive(Clone, Debug)]
pub struct PeerCall {
    /// The group.
    pub shard: ShardId,
    /// The node that asks.
    pub from: u64,
    /// The node that is asked.
    pub to: u64,
    /// Its address, as the members say.
    pub address: String,
    /// At most [`crate::FRAME_BYTES_MAX`] bytes, for [`crate::Group::answer`] of the group on the other node.
    pub frame: Bytes,
    /// The caller gives up after this long; so may the transport.
    pub patience: Duration,
}

/// The other node gave no answer. It may have got the frame nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer from node {node}: {why}")]
pub struct NoAnswer {
    /// The node.
    pub node: u64,
    /// What is known of the reason.
    pub why: String,
}

/// A pending answer.
pub type PeerAnswer = Pin<Box<dyn Future<Output = Result<Bytes, NoAnswer>> + Send>>;

/// Carries frames between the nodes of a cluster; one serves all groups of a node. Frames may be lost, delayed,
/// repeated and overtake each other; they must not be altered. It is told who asks by the connection, not by the
/// frame, and takes frames from nodes of its cluster only.
pub trait Peers: Send + Sync + 'static {
    /// Hands the frame over and returns the answer. Dropping the future gives up the answer.
    fn call(&self, call: PeerCall) -> PeerAnswer;
}
