//! `docs/protocols/queue-features.md` is made from the tests and the list here; written anew with
//! `UPDATE=1 cargo test -p conformance features`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Every feature of a queue, and why MQTT cannot express it where it cannot.
const FEATURES: [(&str, Option<&str>); 27] = [
    ("publish and consume", None),
    ("named groups", None),
    ("leases", None),
    ("lease extension", Some("a lease of MQTT lasts as long as the connection, by name 30 s")),
    ("fair dispatch", None),
    ("nack", None),
    ("nack with back-off", None),
    ("cumulative and ranges", Some("each message is acknowledged by its PUBACK or by name")),
    ("reject and dead letter", None),
    ("delivery limit", None),
    ("max length: reject", None),
    ("max length: drop-head", None),
    ("max length: dead-letter", None),
    ("message and queue TTL", None),
    ("priority", None),
    ("delayed and scheduled, cancelled", None),
    ("deduplication by message id", None),
    ("deduplication by producer", None),
    ("single active consumer, fencing", None),
    ("exclusive consumer", None),
    ("key-ordered groups", None),
    ("stream start positions", None),
    ("retention by count", None),
    ("retention by bytes", None),
    ("retention by age", None),
    ("compaction", None),
    ("cursor reset, replay, copy", None),
];

/// Those that are asked for by programs only.
const ADMIN: [(&str, &str); 5] = [
    ("browse", "a subscription consumes"),
    ("purge and delete", "MQTT has no command for it"),
    ("declaring again", "a publish or a subscription makes a plain queue where there is none"),
    ("topic bindings", ""),
    ("transactions", "MQTT has none"),
];

/// Tests by feature and side.
fn tests() -> BTreeMap<(String, String), Vec<String>> {
    let mut all: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/queues");
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let module = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut cell = None;
        for line in std::fs::read_to_string(&path).expect("readable").lines() {
            if let Some((feature, side)) =
                line.strip_prefix("/// cell: ").and_then(|cell| cell.split_once(" | "))
            {
                cell = Some((feature.to_owned(), side.to_owned()));
            } else if let Some(rest) = line.strip_prefix("fn ")
                && let Some(cell) = cell.take()
            {
                let name = rest.split('(').next().expect("a name");
                all.entry(cell).or_default().push(format!("`{module}::{name}`"));
            }
        }
    }
    all
}

#[test]
fn the_table_of_features_is_made_from_the_tests() {
    let mut tests = tests();
    let mut out = String::from(
        "# Queues: each feature from both sides\n\nMade from `tests/conformance/tests/queues` by its test; do not edit here. \
         What one side does, the test asserts through the other.\n\n| feature | Rust client acts, MQTT sees it | MQTT acts, \
         the Rust client sees it |\n|---|---|---|\n",
    );
    let admin = ADMIN.iter().map(|(feature, why)| (*feature, Some(*why).filter(|w| !w.is_empty())));
    for (feature, why) in FEATURES.into_iter().chain(admin) {
        let mut cell = |side: &str| tests.remove(&(feature.to_owned(), side.to_owned()));
        let rust =
            cell("rust").unwrap_or_else(|| panic!("no test of {feature} by the Rust client"));
        let mqtt = match (cell("mqtt"), why) {
            (Some(tests), None) => tests.join(" "),
            (None, Some(why)) => format!("cannot be said: {why}"),
            (Some(_), Some(_)) => panic!("{feature} can be said over MQTT"),
            (None, None) => panic!("no test of {feature} over MQTT"),
        };
        writeln!(out, "| {feature} | {} | {mqtt} |", rust.join(" ")).expect("a string");
    }
    assert!(tests.is_empty(), "features that are not in the list: {tests:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocols/queue-features.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &out).expect("written");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), out, "run it with UPDATE=1");
}
