//! What a gateway or a program says to `logd`, whatever carries it: the frames ([`contract`]), mailboxes
//! within one process ([`link`]), and gRPC ([`transport`], with [`wire`] between the two).

mod clock;
pub mod contract;
mod link;
mod stream;
pub mod transport;
pub mod wire;

pub use clock::boot_ms;
pub use link::{Frame, Lane, Link, LogdLink, Sender, link};
pub use stream::{COMMAND_WINDOW_BYTES, Stream};
