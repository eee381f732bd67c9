//! openraft's network over [`Peers`]: questions out, answers back, in openraft's terms. One voter alone has nobody to
//! talk to.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fluxmq_names::ShardId;
use logd_log::Log;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};

use crate::clocks::Clocks;
use crate::log_store::to_stored;
use crate::machine::{Shared, State};
use crate::options::Members;
use crate::peer::{Answer, Question};
use crate::transfer;
use crate::transport::{NoAnswer, PeerCall, Peers};
use crate::type_config::{TypeConfig, Vote, from_log, from_log_vote, to_log, to_log_vote};

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, State>;

/// How long a voter may take to make entries durable.
const APPEND_PATIENCE: Duration = Duration::from_secs(1);

/// What all links of a group share.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) shard: ShardId,
    pub(crate) node: u64,
    /// None: this node is alone.
    pub(crate) peers: Option<Arc<dyn Peers>>,
    pub(crate) log: Log,
    pub(crate) shared: Arc<Shared>,
    pub(crate) seed: u64,
    pub(crate) clocks: Arc<Clocks>,
}

/// The way to one voter.
pub(crate) struct Link {
    pub(crate) network: Network,
    pub(crate) to: u64,
    address: String,
}

fn unreachable(why: impl std::error::Error + 'static) -> Unreachable<TypeConfig> {
    Unreachable::new(&why)
}

fn unexpected() -> Unreachable<TypeConfig> {
    unreachable(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"))
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: u64, node: &openraft::impls::BasicNode) -> Link {
        self.link(to, &node.addr)
    }
}

// === impl Network ===

impl Network {
    /// To all other voters.
    pub(crate) fn links(&self, members: &Members) -> Vec<Link> {
        let Members::Voters(voters) = members else { return Vec::new() };
        let others = voters.addresses.iter().filter(|(id, _)| **id != self.node);
        others.map(|(id, address)| self.link(*id, address)).collect()
    }

    fn link(&self, to: u64, address: &str) -> Link {
        Link { network: self.clone(), to, address: address.to_owned() }
    }
}

// === impl Link ===

impl Link {
    /// Asks and waits.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        patience: Duration,
    ) -> Result<Answer, NoAnswer> {
        let Network { shard, node, peers, clocks, .. } = &self.network;
        let no = |why: &dyn ToString| NoAnswer { node: self.to, why: why.to_string() };
        let peers = peers.as_ref().ok_or_else(|| no(&"this node is alone"))?;
        let call = PeerCall {
            shard: *shard,
            from: *node,
            to: self.to,
            address: self.address.clone(),
            frame: question.encode(),
            patience,
        };
        let asked_ms = clocks.now_ms();
        let answer = tokio::time::timeout(patience, peers.call(call)).await;
        let answer = answer.map_err(|_| no(&"it takes too long"))??;
        let (answer, clock_ms) = Answer::decode(&answer).map_err(|e| no(&e))?;
        clocks.note(self.to, asked_ms, clock_ms);
        Ok(answer)
    }

    async fn elect(
        &self,
        question: Question,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.ask(&question, option.hard_ttl()).await.map_err(unreachable)? {
            Answer::Voted { vote, granted, last } => {
                Ok(VoteResponse::new(from_log_vote(vote), last.map(from_log), granted))
            }
            _ => Err(unexpected().into()),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = State;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let question = Question::Append {
            vote: to_log_vote(&request.vote),
            previous: request.prev_log_id.as_ref().map(to_log),
            committed: request.leader_commit.as_ref().map(to_log),
            entries: request.entries.into_iter().map(to_stored).collect(),
        };
        match self.ask(&question, APPEND_PATIENCE).await.map_err(unreachable)? {
            Answer::Appended => Ok(AppendEntriesResponse::Success),
            Answer::AppendedUpto(id) => Ok(AppendEntriesResponse::PartialSuccess(id.map(from_log))),
            Answer::Conflict => Ok(AppendEntriesResponse::Conflict),
            Answer::Outvoted(vote) => Ok(AppendEntriesResponse::HigherVote(from_log_vote(vote))),
            _ => Err(unexpected().into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (vote, last) = (to_log_vote(&request.vote), request.last_log_id.as_ref().map(to_log));
        let handed_over = request.leadership_transfer;
        self.elect(Question::Elect { vote, last, handed_over }, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (vote, last) = (to_log_vote(&request.vote), request.last_log_id.as_ref().map(to_log));
        self.elect(Question::WouldElect { vote, last }, option).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let vote = to_log_vote(request.from_leader());
        let (to, last) = (*request.to_node_id(), request.last_log_id().map(to_log));
        let question = Question::HandOver { vote, to, last };
        match self.ask(&question, option.hard_ttl()).await.map_err(unreachable)? {
            Answer::Taken => Ok(Ok(())),
            _ => Err(unexpected().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = std::pin::pin!(transfer::send(self, &vote, &snapshot));
        let cancel = std::pin::pin!(cancel);
        match futures_util::future::select(send, cancel).await {
            futures_util::future::Either::Left((sent, _)) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    tracing::warn!(shard = %self.network.shard, node = self.to, %error, "snapshot");
                    Err(unreachable(error).into())
                }
            },
            futures_util::future::Either::Right((closed, _)) => Err(closed.into()),
        }
    }
}
