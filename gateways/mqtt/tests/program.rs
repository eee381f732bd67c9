//! The program on its own; with a `logd` it is tested in `deploy/standalone/tests`.

use std::process::Command;

fn said(arguments: &[&str]) -> (bool, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_mqtt-gateway")).args(arguments).output();
    let run = run.expect("the binary is built");
    let bytes = if run.status.success() { run.stdout } else { run.stderr };
    (run.status.success(), String::from_utf8(bytes).expect("utf-8"))
}

#[test]
fn it_says_who_it_is_and_what_is_wrong() {
    let version = format!("mqtt-gateway {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(said(&["--version"]), (true, version));
    assert!(said(&["--help"]).1.contains("--logd"));
    let (ok, text) = said(&["--logd", "nonsense"]);
    assert!(!ok && text.contains("http://HOST:PORT"), "{text}");
    let (ok, text) = said(&["--mqtt", "0.0.0.0:0"]);
    assert!(!ok && text.contains("without authentication"), "{text}");
}
