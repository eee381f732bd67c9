//! What must not be in the tree.

use std::path::Path;
use std::process::Command;

use crate::tree::{files, read, root, sources};

/// Packages that must not come in, and why.
const BANNED: &[(&str, &str)] = &[
    ("ring", "one TLS provider: aws-lc-rs"),
    ("openssl-sys", "one TLS provider: aws-lc-rs"),
    ("native-tls", "one TLS provider: aws-lc-rs"),
    ("serde_yaml", "deprecated: serde-saphyr"),
];

/// What is built, a package a line. Not the lock file: it also names what only a feature that nobody
/// enables would bring.
fn built() -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let told = Command::new(cargo)
        .args(["tree", "--workspace", "--offline", "-e", "normal,build,dev"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo is there");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).expect("names are utf-8")
}

fn banned(built: &str) -> Vec<String> {
    BANNED
        .iter()
        .filter(|(name, _)| built.lines().any(|l| l.split(' ').next() == Some(name)))
        .map(|(name, why)| format!("{name}: {why}"))
        .collect()
}

/// Unsafe code has one place.
fn unsafe_outside(path: &Path, text: &str) -> bool {
    let place = Path::new("logd/log/src/mmap.rs");
    let word = concat!("uns", "afe {");
    path != place && text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(word))
}

fn registry_address(text: &str) -> bool {
    ["crates.io/", "pypi.org/", "registry.npmjs", "proxy.golang", "deb.debian", "repo1.maven"]
        .iter()
        .any(|a| text.contains(&a.replace('/', "")) && text.contains(concat!("htt", "p")))
}

#[test]
fn no_banned_package_is_built() {
    let built = built();
    let found = banned(&built);
    assert!(found.is_empty(), "{found:#?}");
    assert!(built.contains("tidy v"), "the list has what is there");
    assert_eq!(banned("spring v1.0.0\nring v0.17.14\n").len(), 1);
}

#[test]
fn code_that_the_compiler_cannot_check_has_one_place() {
    let found: Vec<_> = sources().into_iter().filter(|p| unsafe_outside(p, &read(p))).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(unsafe_outside(Path::new("a.rs"), concat!("let x = uns", "afe { y() };")));
}

#[test]
fn no_file_names_a_registry() {
    let found: Vec<_> = files()
        .into_iter()
        .filter(|p| p.extension().is_none_or(|e| e != "lock" && e != "sum"))
        .filter(|p| !p.ends_with("tests/tidy/src/bans.rs"))
        .filter(|p| registry_address(&read(p)))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_package_has_the_lints() {
    let manifests = files().into_iter().filter(|p| p.ends_with("Cargo.toml"));
    // logd-log states them itself: it holds the one unsafe module. Fuzzers are outside the workspace.
    let exempt = |p: &Path| {
        p == Path::new("Cargo.toml")
            || p == Path::new("logd/log/Cargo.toml")
            || p.iter().any(|part| part == "fuzz")
    };
    let found: Vec<_> = manifests
        .filter(|p| !exempt(p))
        .filter(|p| !read(p).contains("[lints]\nworkspace = true"))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}
