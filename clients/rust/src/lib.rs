//! For programs that use the log directly: [`Client`]. What a gateway or a program says to `logd`, whatever carries it: the frames ([`contract`]), mailboxes
//! within one process ([`link`]), and gRPC ([`transport`], with [`wire`] between the two).

mod clock;
pub mod contract;
mod link;
mod program;
mod stream;
pub mod transport;
pub mod wire;

pub use clock::boot_ms;
pub use fluxmq_commands::Appending;
pub use fluxmq_commands::command::queue::{Overflow, Sharing, Start, Verdict};
pub use fluxmq_proto::v1::QueueInfo;
pub use link::{Frame, Lane, Link, LogdLink, Sender, link};
pub use program::{
    Client, ClientError, ClientOptions, Consumer, ConsumerBuilder, Delivery, Group, Item, Message,
    Publisher, QueueOptions, Reader, Receipt, Received, Stored, Transaction,
};
pub use stream::{COMMAND_WINDOW_BYTES, Stream};
pub use transport::Tls;
