//! Frames as the messages of `proto/fluxmq/v1`, lane by lane and both ways. A frame of a lane may become
//! one message with others behind it: what queued while the last message was on its way travels together.
//!
//! Nothing here trusts the other side: a message that means nothing is a [`WireError`], which ends the link.

use bytes::Bytes;

mod deliver;
mod publish;
mod queues;
mod routes;
#[cfg(test)]
mod tests;

/// Bytes of a message of a lane: the largest message of a client and what travels with it.
pub const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// A message of the other side that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of the link cannot be understood: {0}")]
pub struct WireError(pub(crate) &'static str);

/// A message of one lane in one direction.
pub trait Message<F>: prost::Message + Default + Sized + 'static {
    /// Takes frames from the front of `frames` as long as they fit into one message. Never called without.
    fn pack(frames: &mut std::collections::VecDeque<F>) -> Self;

    /// Gives the frames of the message, in order.
    ///
    /// # Errors
    /// It means nothing.
    fn unpack(self, each: &mut dyn FnMut(F)) -> Result<(), WireError>;
}

/// The parts of `body` that end at `ends`.
fn slices<'a>(
    ends: &'a [u32],
    body: &'a Bytes,
) -> impl Iterator<Item = Result<Bytes, WireError>> + 'a {
    let mut start = 0;
    ends.iter().map(move |end| {
        let end = *end as usize;
        if end < start || end > body.len() {
            return Err(WireError("ends that are not in the body"));
        }
        let slice = body.slice(start..end);
        start = end;
        Ok(slice)
    })
}

/// Nothing but frames of this lane comes here: lanes are chosen by [`crate::Frame::lane`].
const OTHER_LANE: &str = "a frame is packed on its own lane";
