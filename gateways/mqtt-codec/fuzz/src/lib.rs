//! Bodies of the fuzz targets. The fuzzers call them, and so does `tests/replay.rs` of the crate with every file of the corpus.

mod decode;
mod roundtrip;

pub use decode::decode;
pub use roundtrip::roundtrip;
