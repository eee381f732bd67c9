//! The seeds of the fuzzers are valid packets, and stay so.

use std::path::Path;

use mqtt_codec::{Connect, Packet, ServerPacket, Version, frame};

#[test]
fn every_seed_is_valid() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for target in ["decode", "roundtrip"] {
        let mut seeds = 0;
        for file in std::fs::read_dir(corpus.join(target)).expect("the corpus is there") {
            let path = file.expect("readable").path();
            // What fuzzers add is named by its hash.
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
            if !name.contains('-') && name != "pings" {
                continue;
            }
            let seed = std::fs::read(&path).expect("readable");
            let version = [Version::V3, Version::V311, Version::V5][usize::from(seed[0])];
            let mut stream = &seed[1..];
            while let Some(header) = frame::peek(stream, 1 << 20).expect("a valid header") {
                let (packet, rest) = stream.split_at(header.total_len());
                let valid = Connect::decode(packet).is_ok_and(|c| c.version == version)
                    || Packet::decode(packet, version)
                        .is_ok_and(|p| !matches!(p, Packet::FromServer(_) | Packet::Connect(_)))
                    || ServerPacket::decode(packet, version)
                        .is_ok_and(|p| !matches!(p, ServerPacket::FromClient(_)));
                assert!(valid, "{name}: {:?}", Packet::decode(packet, version));
                stream = rest;
            }
            assert!(stream.is_empty(), "{name}");
            seeds += 1;
        }
        assert!(seeds >= 22, "{target} has {seeds} seeds");
    }
}
