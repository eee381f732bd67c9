//! Every file of the fuzz corpus once more, without a fuzzer: what was found once stays found, and the lines that the corpus
//! reaches can be counted.

#[allow(dead_code, unreachable_pub)] // the package of the fuzzers is its other home
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

#[test]
fn recovery() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/recovery");
    let mut files = 0;
    for file in std::fs::read_dir(corpus).expect("the corpus is there") {
        fuzz::recovery(&std::fs::read(file.expect("readable").path()).expect("readable"));
        files += 1;
    }
    assert!(files >= 50, "{files} files");
}
