//! Who may depend on whom (design §2, style §4). Nothing that is not listed is allowed.

use std::process::Command;

use serde_json::Value;

use crate::tree::root;

/// Package and the packages of ours it may depend on, outside of its tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base2histogram", &[]),
    // It knows the broker by its bytes alone; the codec writes them.
    ("chaos", &["mqtt-codec"]),
    ("conformance", &["fluxmq-process", "gateway-core", "logd", "mqtt-gateway"]),
    ("floor", &[]),
    ("fluxmq", &["fluxmq-process", "gateway-core", "logd", "mqtt-gateway"]),
    ("fluxmq-bench", &["fluxmq-client", "fluxmq-commands", "fluxmq-names"]),
    ("fluxmq-client", &["fluxmq-commands", "fluxmq-names", "fluxmq-proto"]),
    ("fluxmq-commands", &["fluxmq-names"]),
    ("fluxmq-names", &[]),
    ("fluxmq-process", &[]),
    ("fluxmq-proto", &["fluxmq-names"]),
    (
        "gateway-core",
        &["fluxmq-client", "fluxmq-commands", "fluxmq-names", "fluxmq-process", "fluxmq-proto"],
    ),
    ("integration", &[]),
    (
        "logd",
        &[
            "fluxmq-client",
            "fluxmq-commands",
            "fluxmq-names",
            "fluxmq-process",
            "fluxmq-proto",
            "logd-broker",
            "logd-log",
            "logd-raft",
        ],
    ),
    ("logd-broker", &["fluxmq-commands", "fluxmq-names"]),
    ("logd-log", &[]),
    ("logd-raft", &["fluxmq-commands", "fluxmq-names", "logd-broker", "logd-log"]),
    (
        "micro",
        &[
            "fluxmq-commands",
            "fluxmq-names",
            "gateway-core",
            "logd-broker",
            "logd-log",
            "mqtt-codec",
        ],
    ),
    ("mqtt-codec", &[]),
    (
        "mqtt-gateway",
        &[
            "fluxmq-client",
            "fluxmq-commands",
            "fluxmq-names",
            "fluxmq-process",
            "fluxmq-proto",
            "gateway-core",
            "mqtt-codec",
        ],
    ),
    ("tidy", &[]),
];

/// Packages that must work without a runtime and without the contract.
const WITHOUT_RUNTIME: &[&str] = &["logd-log", "logd-broker", "mqtt-codec", "fluxmq-names"];

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let told = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo is there");
    serde_json::from_slice(&told.stdout).expect("cargo metadata is json")
}

/// Dependencies of `package` that are not for tests only.
fn dependencies(package: &Value) -> Vec<&str> {
    let all = package["dependencies"].as_array().expect("a list");
    all.iter().filter(|d| d["kind"] != "dev").filter_map(|d| d["name"].as_str()).collect()
}

fn breaches(package: &str, dependencies: &[&str]) -> Vec<String> {
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package) else {
        return vec![format!("{package} has no place in the layering")];
    };
    let mut found = Vec::new();
    for dependency in dependencies {
        let ours = ALLOWED.iter().any(|(name, _)| name == dependency);
        if ours && !allowed.contains(dependency) {
            found.push(format!("{package} must not depend on {dependency}"));
        }
        let runtime = ["tokio", "tonic", "prost", "hyper"].contains(dependency);
        if runtime && WITHOUT_RUNTIME.contains(&package) {
            found.push(format!("{package} must not know {dependency}"));
        }
    }
    found
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("a list");
    let found: Vec<_> = packages
        .iter()
        .flat_map(|p| breaches(p["name"].as_str().expect("a name"), &dependencies(p)))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_breach_is_found() {
    assert!(!breaches("mqtt-gateway", &["logd-log"]).is_empty());
    assert!(!breaches("logd-broker", &["tokio"]).is_empty());
    assert!(!breaches("newcomer", &[]).is_empty());
    assert!(breaches("logd-raft", &["logd-log", "tokio"]).is_empty());
}
