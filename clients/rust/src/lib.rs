//! What a gateway or a program says to `logd`, whatever carries it.
//!
//! Today one carrier exists: the mailboxes of the one-process broker. gRPC comes next and carries the
//! same frames; nothing here may hint at either.

pub mod contract;
mod link;

pub use link::{Closed, Link, LogdLink, link};
