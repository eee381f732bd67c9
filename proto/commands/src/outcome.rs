//! What a command led to; recorded for its producer and sent back to it.

use fluxmq_names::ErrorCode;

use crate::wire::{Reader, WireError, Write};

/// The outcome of CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// The session.
    pub session: u64,
    /// Fences everything the earlier owner may still say (G1).
    pub epoch: u64,
    /// There was a session to go on with.
    pub present: bool,
    /// What was sent on earlier connections: numbers below are marked as repeats.
    pub sent_upto: u64,
    /// Gateway epoch and token of the connection that lost the session; 0 = it was detached.
    pub previous: (u64, u64),
}

/// What became of a message for queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appending {
    /// It is in the queues.
    Stored,
    /// It was there before, in all of them.
    Repeat,
    /// It will be, when its time comes.
    Scheduled,
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// Published to so many inboxes.
    Published {
        /// Inboxes that took it, plus one when it was retained.
        matched: u32,
    },
    /// The session.
    Connected(Connected),
    /// Granted QoS or reason code of each filter, and whether it is new to the session.
    Subscribed(Vec<(u8, bool)>),
    /// Reason code of each filter.
    Unsubscribed(Vec<u8>),
    /// The publish number of the packet id, and whether it is a new one.
    Opened {
        /// Publish number.
        number: u64,
        /// False for a repeat.
        fresh: bool,
        /// Numbers below are closed: takers forget them (G2).
        lowest_open: u64,
    },
    /// The epoch of the gateway.
    Gateway {
        /// Position of its registration.
        epoch: u64,
    },
    /// How many, or which offset, as the command says.
    Number(u64),
    /// The queue.
    Declared {
        /// Its incarnation: the position of the command that made it.
        queue: u64,
        /// It did not exist before.
        fresh: bool,
    },
    /// The message was taken.
    Appended {
        /// Queues that hold it.
        queues: u32,
        /// Its offset in the first queue; the id to cancel it by when it is scheduled.
        offset: u64,
        /// What was done.
        how: Appending,
    },
    /// The group.
    Group {
        /// Its incarnation.
        group: u64,
        /// All below this offset is settled.
        cursor: u64,
        /// It did not exist before.
        fresh: bool,
    },
    /// The member.
    Joined {
        /// Names the member in settlements of keyed groups, and when it leaves.
        token: u64,
        /// Fences settlements of a group with one active member; it changes with the member.
        epoch: u64,
        /// This member gets the messages.
        active: bool,
    },
    /// It was refused; nothing changed.
    Error {
        /// Why.
        code: ErrorCode,
        /// Depends on the code.
        detail: u64,
    },
}

// === impl Outcome ===

impl Outcome {
    /// A refusal.
    #[must_use]
    pub fn refused(code: ErrorCode) -> Self {
        Self::Error { code, detail: 0 }
    }

    /// Appends the outcome to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done => out.put_u8(0),
            Self::Published { matched } => {
                out.put_u8(1);
                out.put_u32(*matched);
            }
            Self::Connected(c) => {
                out.put_u8(2);
                out.put_u64(c.session);
                out.put_u64(c.epoch);
                out.put_u8(c.present.into());
                out.put_u64(c.sent_upto);
                out.put_u64(c.previous.0);
                out.put_u64(c.previous.1);
            }
            Self::Subscribed(codes) => {
                out.put_u8(3);
                out.put_u16(codes.len() as u16);
                codes.iter().for_each(|(code, _)| out.put_u8(*code));
                codes.iter().for_each(|(_, fresh)| out.put_u8((*fresh).into()));
            }
            Self::Unsubscribed(codes) => {
                out.put_u8(4);
                out.put_u16(codes.len() as u16);
                out.extend_from_slice(codes);
            }
            Self::Opened { number, fresh, lowest_open } => {
                out.put_u8(5);
                out.put_u64(*number);
                out.put_u8((*fresh).into());
                out.put_u64(*lowest_open);
            }
            Self::Gateway { epoch } => {
                out.put_u8(6);
                out.put_u64(*epoch);
            }
            Self::Error { code, detail } => {
                out.put_u8(255);
                out.put_u16(code.number());
                out.put_u64(*detail);
            }
            _ => self.encode_queue(out),
        }
    }

    fn encode_queue(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(n) => {
                out.put_u8(7);
                out.put_u64(*n);
            }
            Self::Declared { queue, fresh } => {
                out.put_u8(8);
                out.put_u64(*queue);
                out.put_u8((*fresh).into());
            }
            Self::Appended { queues, offset, how } => {
                out.put_u8(9);
                out.put_u32(*queues);
                out.put_u64(*offset);
                out.put_u8(*how as u8);
            }
            Self::Group { group, cursor, fresh } => {
                out.put_u8(10);
                out.put_u64(*group);
                out.put_u64(*cursor);
                out.put_u8((*fresh).into());
            }
            Self::Joined { token, epoch, active } => {
                out.put_u8(11);
                out.put_u64(*token);
                out.put_u64(*epoch);
                out.put_u8((*active).into());
            }
            _ => unreachable!("encoded by encode"),
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Bytes that are no outcome.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(bytes);
        let outcome = Self::read(&mut r)?;
        r.end()?;
        Ok(outcome)
    }

    /// Reads one outcome off the front.
    ///
    /// # Errors
    /// Bytes that are no outcome.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match r.u8()? {
            0 => Self::Done,
            1 => Self::Published { matched: r.u32()? },
            2 => Self::Connected(Connected {
                session: r.u64()?,
                epoch: r.u64()?,
                present: r.u8()? != 0,
                sent_upto: r.u64()?,
                previous: (r.u64()?, r.u64()?),
            }),
            3 => {
                let n = r.u16()?;
                let codes = r.take(n.into())?;
                let fresh = r.take(n.into())?;
                Self::Subscribed(codes.iter().zip(fresh).map(|(c, f)| (*c, *f != 0)).collect())
            }
            4 => {
                let n = r.u16()?;
                Self::Unsubscribed(r.take(n.into())?.to_vec())
            }
            5 => Self::Opened { number: r.u64()?, fresh: r.u8()? != 0, lowest_open: r.u64()? },
            6 => Self::Gateway { epoch: r.u64()? },
            7 => Self::Number(r.u64()?),
            8 => Self::Declared { queue: r.u64()?, fresh: r.u8()? != 0 },
            9 => Self::Appended {
                queues: r.u32()?,
                offset: r.u64()?,
                how: match r.u8()? {
                    0 => Appending::Stored,
                    1 => Appending::Repeat,
                    2 => Appending::Scheduled,
                    _ => return Err(WireError("unknown appending")),
                },
            },
            10 => Self::Group { group: r.u64()?, cursor: r.u64()?, fresh: r.u8()? != 0 },
            11 => Self::Joined { token: r.u64()?, epoch: r.u64()?, active: r.u8()? != 0 },
            255 => Self::Error {
                code: ErrorCode::from_number(r.u16()?).ok_or(WireError("unknown error code"))?,
                detail: r.u64()?,
            },
            _ => return Err(WireError("unknown outcome")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_back() {
        let connected =
            Connected { session: 1, epoch: 2, present: true, sent_upto: 3, previous: (4, 5) };
        for outcome in [
            Outcome::Done,
            Outcome::Published { matched: 3 },
            Outcome::Connected(connected),
            Outcome::Subscribed(vec![(1, true), (0x97, false)]),
            Outcome::Unsubscribed(vec![0, 0x11]),
            Outcome::Opened { number: 9, fresh: true, lowest_open: 3 },
            Outcome::Gateway { epoch: 8 },
            Outcome::Number(9),
            Outcome::Declared { queue: 1, fresh: true },
            Outcome::Appended { queues: 1, offset: 2, how: Appending::Scheduled },
            Outcome::Group { group: 1, cursor: 2, fresh: true },
            Outcome::Joined { token: 1, epoch: 2, active: true },
            Outcome::Error { code: ErrorCode::OutOfSequence, detail: 7 },
        ] {
            let mut bytes = Vec::new();
            outcome.encode(&mut bytes);
            assert_eq!(Outcome::decode(&bytes), Ok(outcome.clone()));
            for cut in 0..bytes.len() {
                assert!(Outcome::decode(&bytes[..cut]).is_err());
            }
        }
    }
}
