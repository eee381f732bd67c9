//! Every file of the fuzz corpus once more, without a fuzzer: what was found once stays found, and the lines that the corpus
//! reaches can be counted.

#[allow(dead_code, unreachable_pub)] // the package of the fuzzers is its other home
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for file in std::fs::read_dir(corpus).expect("the corpus is there") {
        body(&std::fs::read(file.expect("readable").path()).expect("readable"));
        files += 1;
    }
    assert!(files >= 22, "{target} has {files} files");
}

#[test]
fn decode() {
    replay("decode", fuzz::decode);
}

#[test]
fn roundtrip() {
    replay("roundtrip", fuzz::roundtrip);
}
