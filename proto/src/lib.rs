//! What the tiers say to each other: the encoded message and, with the contract, the gRPC types.

pub mod message;
