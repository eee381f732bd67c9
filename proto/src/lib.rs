//! What the tiers say to each other: the encoded message, and the contract as gRPC types.

pub mod message;

/// The contract, generated from `proto/fluxmq/v1`; the comments there say what things mean.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("fluxmq.v1");

    /// The contract's descriptors, encoded.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fluxmq.bin"));
}
