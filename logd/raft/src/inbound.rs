//! Answers the questions of other voters.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use logd_broker::Broker;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::arrival::Arrival;
use crate::group::{ELECTION_MAX_MS, Group, RaftNode};
use crate::log_store::from_stored;
use crate::machine::State;
use crate::peer::{Answer, Question};
use crate::type_config::{TypeConfig, from_log, from_log_vote, to_log, to_log_vote};

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, State>;

/// What a group keeps to answer with.
pub(crate) struct Inbound {
    started: Instant,
    arrival: Mutex<Option<Arrival>>,
}

// === impl Inbound ===

impl Inbound {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), arrival: Mutex::default() }
    }

    /// A voter that was restarted does not know whether it promised a leader to elect nobody else: it waits until such
    /// a promise has ended (S11).
    fn may_vote(&self) -> bool {
        self.started.elapsed() >= Duration::from_millis(ELECTION_MAX_MS)
    }
}

fn voted(answer: VoteResponse<TypeConfig>) -> Answer {
    Answer::Voted {
        vote: to_log_vote(&answer.vote),
        granted: answer.vote_granted,
        last: answer.last_log_id.as_ref().map(to_log),
    }
}

impl Group {
    /// Answers a frame of another voter of this group. What is no such frame is refused.
    pub async fn answer(&self, frame: Bytes) -> Bytes {
        let answer = match Question::decode(&frame) {
            Ok(question) => self.answer_question(question).await.unwrap_or_else(|error| {
                tracing::warn!(shard = %self.shard, %error, "a peer was refused");
                Answer::Refused
            }),
            Err(error) => {
                tracing::warn!(shard = %self.shard, %error, "a frame of a peer was refused");
                Answer::Refused
            }
        };
        answer.encode(self.clocks.now_ms())
    }

    async fn answer_question(&self, question: Question) -> io::Result<Answer> {
        let raft = &self.raft;
        match question {
            Question::Append { vote, previous, committed, entries } => {
                let request = AppendEntriesRequest {
                    vote: from_log_vote(vote),
                    prev_log_id: previous.map(from_log),
                    entries: entries.into_iter().map(from_stored).collect::<io::Result<_>>()?,
                    leader_commit: committed.map(from_log),
                };
                Ok(match raft.append_entries(request).await.map_err(io::Error::other)? {
                    AppendEntriesResponse::Success => Answer::Appended,
                    AppendEntriesResponse::PartialSuccess(id) => {
                        Answer::AppendedUpto(id.as_ref().map(to_log))
                    }
                    AppendEntriesResponse::Conflict => Answer::Conflict,
                    AppendEntriesResponse::HigherVote(vote) => Answer::Outvoted(to_log_vote(&vote)),
                })
            }
            Question::Elect { .. } | Question::WouldElect { .. } if !self.inbound.may_vote() => {
                Ok(Answer::Refused)
            }
            Question::Elect { vote, last, handed_over } => {
                let mut request = VoteRequest::new(from_log_vote(vote), last.map(from_log));
                request.leadership_transfer = handed_over;
                Ok(voted(raft.vote(request).await.map_err(io::Error::other)?))
            }
            Question::WouldElect { vote, last } => {
                let request = VoteRequest::new(from_log_vote(vote), last.map(from_log));
                Ok(voted(raft.pre_vote(request).await.map_err(io::Error::other)?))
            }
            Question::Begin { transfer, vote, last, meta, state_bytes } => {
                self.begin(transfer, vote, last, &meta, state_bytes)
            }
            Question::State { transfer, at, bytes } => {
                self.arriving(transfer, |arrival| arrival.take_state(at, &bytes))
            }
            Question::Live { transfer, at, bytes } => {
                self.arriving(transfer, |arrival| arrival.take_live(at, &bytes))
            }
            Question::Install { transfer, vote } => self.install(transfer, vote).await,
            Question::Clock => Ok(Answer::Taken),
            Question::HandOver { vote, to, last } => {
                let (vote, last) = (from_log_vote(vote), last.map(from_log));
                let request = TransferLeaderRequest::new(vote, to, last);
                let taken = raft.handle_transfer_leader(request).await;
                Ok(match taken.map_err(io::Error::other)? {
                    Ok(()) => Answer::Taken,
                    Err(_) => Answer::Refused,
                })
            }
        }
    }

    fn begin(
        &self,
        transfer: u64,
        vote: logd_log::Vote,
        last: logd_log::LogId,
        meta: &[u8],
        state_bytes: u64,
    ) -> io::Result<Answer> {
        if let Some(higher) = higher_vote(&self.raft, vote) {
            return Ok(Answer::Installed { vote: higher });
        }
        let applied = self.raft.data_metrics().borrow_watched().last_applied;
        if applied >= Some(from_log(last)) {
            // The answer to an earlier transfer was lost.
            return Ok(Answer::Installed { vote });
        }
        let mut slot = self.inbound.arrival.lock();
        if let Some(arrival) = slot.as_ref().filter(|a| a.transfer == transfer) {
            return Ok(Answer::Ready { above: arrival.above });
        }
        let above = self.with_state(Broker::applied);
        *slot = None;
        *slot = Some(Arrival::begin(&self.log, transfer, last, meta, state_bytes, above)?);
        Ok(Answer::Ready { above })
    }

    /// A transfer that fails in the middle is over; the sender begins a new one.
    fn arriving(
        &self,
        transfer: u64,
        take: impl FnOnce(&mut Arrival) -> io::Result<()>,
    ) -> io::Result<Answer> {
        let mut slot = self.inbound.arrival.lock();
        let Some(arrival) = slot.as_mut().filter(|a| a.transfer == transfer) else {
            return Ok(Answer::Refused);
        };
        let taken = take(arrival);
        if taken.is_err() {
            *slot = None;
        }
        taken.map(|()| Answer::Taken)
    }

    async fn install(&self, transfer: u64, vote: logd_log::Vote) -> io::Result<Answer> {
        let arrival = self.inbound.arrival.lock().take_if(|a| a.transfer == transfer);
        let Some(arrival) = arrival else { return Ok(Answer::Refused) };
        let (meta, bytes, arrived) = arrival.end()?;
        if meta.last_log_id.is_none_or(|last| last.leader_id.term > vote.term) {
            return Ok(Answer::Refused);
        }
        // What cannot be restored must not replace what there is.
        Broker::restore(&bytes).map_err(io::Error::other)?;
        let snapshot = RaftSnapshot { meta, snapshot: State::Arrived { bytes, arrived } };
        let installed = self.raft.install_full_snapshot(from_log_vote(vote), snapshot).await;
        let vote = to_log_vote(&installed.map_err(io::Error::other)?.vote);
        Ok(Answer::Installed { vote })
    }
}

/// The vote here if it is higher.
fn higher_vote(raft: &RaftNode, vote: logd_log::Vote) -> Option<logd_log::Vote> {
    let ours = raft.server_metrics().borrow_watched().vote;
    (ours > from_log_vote(vote)).then(|| to_log_vote(&ours))
}
