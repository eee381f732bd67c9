//! Why something was refused, in one vocabulary for all protocols (design §8).

/// What the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The same again, later or elsewhere.
    Retry,
    /// Something else: this will never work.
    Fix,
    /// Nothing: what it was about is no more.
    Gone,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal $remedy:ident,)+) => {
        /// Error codes; the numbers are stored and sent, and never used again for something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[doc = $doc])+ $name = $number,)+ }

        impl ErrorCode {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What the caller can do.
            #[must_use]
            pub const fn remedy(self) -> Remedy {
                match self { $(Self::$name => Remedy::$remedy,)+ }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

codes! {
    /// The request cannot be understood.
    InvalidArgument = 1 Fix,
    /// What it names does not exist.
    NotFound = 2 Gone,
    /// What it would make exists, and differs.
    AlreadyExists = 3 Fix,
    /// The gateway epoch has ended.
    Fenced = 4 Gone,
    /// The session or consumer has a newer owner.
    StaleEpoch = 5 Gone,
    /// Not the next sequence of its producer; the detail is the expected one.
    OutOfSequence = 6 Retry,
    /// Another node leads the shard.
    NotLeader = 7 Retry,
    /// No quorum, or not in time.
    Unavailable = 8 Retry,
    /// A stated limit is reached.
    LimitExceeded = 9 Retry,
    /// Larger than is taken.
    TooLarge = 10 Fix,
    /// Not who he says.
    Unauthenticated = 11 Fix,
    /// Not allowed.
    Forbidden = 12 Fix,
    /// No room on disk; settlements and deletes go on.
    DiskFull = 13 Retry,
    /// Not built, or not at this feature level.
    Unsupported = 14 Fix,
    /// Damaged in transit or on disk.
    Corrupt = 15 Retry,
    /// Somebody else has it, or it is not empty.
    InUse = 16 Retry,
    /// Another part of its transaction was refused: nothing of it was done.
    Aborted = 17 Retry,
}

// === impl ErrorCode ===

impl ErrorCode {
    /// The number that is stored and sent.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
    }
}
