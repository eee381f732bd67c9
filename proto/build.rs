//! Compiles the contract with protox: no protoc is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let files =
        ["log", "sessions", "routes", "queues"].map(|name| format!("fluxmq/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=fluxmq");
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("fluxmq.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // Bodies are slices of the frame they came in.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
