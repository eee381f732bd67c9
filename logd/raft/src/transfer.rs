//! Sends a snapshot to a voter that needs entries which are purged here (S10): its state, and then the live entries of
//! the log behind it that the other does not have. Dead entries stay behind.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fluxmq_commands::wire::WireError;
use logd_broker::Broker;
use logd_log::ReadError;

use crate::machine::{State, encode_meta};
use crate::network::Link;
use crate::peer::{Answer, Question, put_entry};
use crate::transport::NoAnswer;
use crate::type_config::{TypeConfig, Vote, from_log_vote, to_log, to_log_vote};

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, State>;

/// Bytes sent at once, unless one entry alone is larger.
const CHUNK: usize = 1024 * 1024;
/// How long a chunk may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the installation may take.
const INSTALL_PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of the transfers of this process.
static TRANSFERS: AtomicU64 = AtomicU64::new(0);

/// A snapshot did not get to its voter; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("the voter takes no snapshot now")]
    Refused,
    #[error("the snapshot has no last entry")]
    Empty,
    #[error("the state is damaged: {0}")]
    State(#[from] WireError),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log lost what the state needs: this node can help nobody.
    #[error("entry {0} is live and not in the log")]
    Missing(u64),
    #[error("the transfer is out of step")]
    OutOfStep,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends all of it; returns the vote that the other knows now.
pub(crate) async fn send(
    link: &Link,
    vote: &Vote,
    snapshot: &RaftSnapshot,
) -> Result<Vote, TransferError> {
    let number = TRANSFERS.fetch_add(1, Ordering::Relaxed);
    let transfer = link.network.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let last = snapshot.meta.last_log_id.as_ref().map(to_log).ok_or(TransferError::Empty)?;
    let state = &snapshot.snapshot.bytes()?;
    let vote = to_log_vote(vote);
    let meta = encode_meta(&snapshot.meta, None).into();
    let state_bytes = state.len() as u64;
    let begin = Question::Begin { transfer, vote, last, meta, state_bytes };
    let above = match link.ask(&begin, PATIENCE).await? {
        Answer::Ready { above } => above,
        Answer::Installed { vote } => return Ok(from_log_vote(vote)),
        _ => return Err(TransferError::Refused),
    };
    for (n, chunk) in state.chunks(CHUNK).enumerate() {
        let at = (n * CHUNK) as u64;
        let bytes = state.slice_ref(chunk);
        take(link, &Question::State { transfer, at, bytes }).await?;
    }
    send_live(link, transfer, state, above, last.index).await?;
    match link.ask(&Question::Install { transfer, vote }, INSTALL_PATIENCE).await? {
        Answer::Installed { vote } => Ok(from_log_vote(vote)),
        _ => Err(TransferError::Refused),
    }
}

/// Entries above `above` that the state refers to.
async fn send_live(
    link: &Link,
    transfer: u64,
    state: &[u8],
    above: u64,
    last: u64,
) -> Result<(), TransferError> {
    let live = Broker::restore(state)?;
    let (mut chunk, mut at) = (Vec::new(), 0);
    for index in live.live_entries().filter(|index| *index > above && *index <= last) {
        let Some(entry) = link.network.log.committed_entry(index)? else {
            // What died since may be gone: the other learns of its death from the entries that follow the snapshot.
            let still = link.network.shared.broker.lock().is_live(index..=index);
            if still {
                return Err(TransferError::Missing(index));
            }
            continue;
        };
        if !chunk.is_empty() && chunk.len() + entry.payload.len() > CHUNK {
            at = send_chunk(link, transfer, at, &mut chunk).await?;
        }
        put_entry(&mut chunk, &entry);
    }
    if !chunk.is_empty() {
        send_chunk(link, transfer, at, &mut chunk).await?;
    }
    Ok(())
}

async fn send_chunk(
    link: &Link,
    transfer: u64,
    at: u64,
    chunk: &mut Vec<u8>,
) -> Result<u64, TransferError> {
    let bytes = Bytes::from(std::mem::take(chunk));
    let next = at + bytes.len() as u64;
    take(link, &Question::Live { transfer, at, bytes }).await?;
    Ok(next)
}

async fn take(link: &Link, question: &Question) -> Result<(), TransferError> {
    match link.ask(question, PATIENCE).await? {
        Answer::Taken => Ok(()),
        _ => Err(TransferError::OutOfStep),
    }
}
