//! Why something was not done.

use fluxmq_commands::command::queue::Arguments;
use fluxmq_names::{ErrorCode, Remedy};

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No address answers.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Queue, group or message does not exist.
    #[error("it does not exist")]
    NotFound,
    /// A queue of that name exists with other arguments: these differ.
    #[error("it exists with other arguments: {} differ", .0.join(", "))]
    Differs(Vec<&'static str>),
    /// It was refused, and nothing was done.
    #[error("refused: {code:?} (detail {detail})")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// Depends on the code.
        detail: u64,
    },
    /// The client was away for too long: nobody knows whether what was under way was done.
    #[error("the epoch of this client has ended; it is not known whether this was done")]
    EpochEnded,
    /// A consumer does not hold these messages any more: first offset and how many.
    #[error("not held any more: {0:?}")]
    NotHeld(Vec<(u64, u32)>),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

// === impl ClientError ===

impl ClientError {
    pub(super) fn refused(code: ErrorCode, detail: u64) -> Self {
        match code {
            ErrorCode::NotFound => Self::NotFound,
            _ => Self::Refused { code, detail },
        }
    }

    /// The refusal of a declaration.
    pub(super) fn of_declaration(self) -> Self {
        match self {
            Self::Refused { code: ErrorCode::AlreadyExists, detail } => {
                let names = Arguments::FIELDS.iter().enumerate();
                let differ = names.filter(|(n, _)| detail >> n & 1 == 1).map(|(_, name)| *name);
                Self::Differs(differ.collect())
            }
            other => other,
        }
    }

    /// What can be done about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Refused { code, .. } => code.remedy(),
            Self::Connect(_) => Remedy::Retry,
            Self::Differs(_) => Remedy::Fix,
            _ => Remedy::Gone,
        }
    }
}
