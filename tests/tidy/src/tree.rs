//! What the repository holds.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What may stand at the top; everything else has a place below.
const ROOT: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "clients",
    "deploy",
    "docs",
    "gateways",
    "logd",
    "proto",
    "rust-toolchain.toml",
    "tests",
];

/// Names that say nothing of what a file is about.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "common", "types", "manager", "misc"];

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Tracked and new files, relative to the root.
pub(crate) fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is there");
    let text = String::from_utf8(listed.stdout).expect("names are utf-8");
    text.lines().map(PathBuf::from).filter(|p| root().join(p).exists()).collect()
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(path)).expect("listed")).into_owned()
}

/// Rust sources.
pub(crate) fn sources() -> Vec<PathBuf> {
    files().into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs")).collect()
}

fn misplaced(path: &Path) -> Option<String> {
    let top = path.iter().next()?.to_string_lossy().into_owned();
    (!ROOT.contains(&&*top)).then(|| format!("{top} does not belong at the top"))
}

fn says_nothing(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    EMPTY_NAMES.contains(&&*stem).then(|| format!("{} says nothing", path.display()))
}

#[test]
fn everything_has_its_place() {
    let wrong: Vec<_> = files().iter().filter_map(|p| misplaced(p)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(misplaced(Path::new("scripts/x.sh")).is_some());
}

#[test]
fn names_say_what_a_file_is_about() {
    let wrong: Vec<_> = sources().iter().filter_map(|p| says_nothing(p)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(says_nothing(Path::new("a/src/utils.rs")).is_some());
}
