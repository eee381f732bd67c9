//! The reference of all keys, as Markdown.

use std::fmt::Write as _;

use super::sections;
use crate::program::Program;

/// A section.
pub(super) struct SectionReference {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) programs: &'static [Program],
    pub(super) keys: Vec<KeyReference>,
}

/// A key.
pub(super) struct KeyReference {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) kind: &'static str,
    pub(super) default: String,
    pub(super) limits: Option<String>,
}

/// Names of all environment variables.
pub(super) fn variables() -> impl Iterator<Item = String> {
    sections::reference().into_iter().flat_map(|section| {
        section.keys.into_iter().map(move |key| variable(section.name, key.name))
    })
}

fn variable(section: &str, key: &str) -> String {
    format!("FLUXMQ_{}_{}", section.to_uppercase(), key.to_uppercase())
}

const HEAD: &str = "\
# Configuration

Written from `deploy/process/src/settings/sections.rs` by its test; do not edit here.

Nothing needs to be configured. What is said is taken in this order: flag (`fluxmq --help`), then environment variable, then
`--config FILE`, then default. A file is YAML, a map of sections; examples are in `deploy/config`. An unknown key, an unknown
variable that begins with `FLUXMQ_`, a value of another type or outside its limits keeps the process from starting (exit code 1); all that
is wrong is told at once. Variables that Kubernetes makes for a service called `fluxmq` or `fluxmq-…` are passed over.

`kill -HUP` has `fluxmq` and `mqtt-gateway` read all of it again. If anything is wrong, that is logged, key by key, and what was holds on.
Else users, rules and client ids hold at once, also for who is connected: the next publish, subscription or delivery is judged by them, and who would not be let in
any more is sent away (0x87). Limits on connections hold from the next connection on, all else of `mqtt` for clients that connect from then on. Listeners,
`mqtt.proxy_protocol`, `mqtt.sys_interval_s` and the other sections take a restart; a change of them is logged. Files of TLS are read again when they change.

One file may serve `fluxmq`, `logd` and `mqtt-gateway`: a section that is for another of them is checked and ignored.
";

/// `docs/configuration.md`.
#[must_use]
pub fn as_markdown() -> String {
    let mut text = HEAD.to_owned();
    for section in sections::reference() {
        let programs: Vec<_> = section.programs.iter().map(|p| format!("`{p}`")).collect();
        let about = section.about.trim();
        let _ = write!(text, "\n## `{}`\n{about} For {}.\n", section.name, programs.join(", "));
        text.push_str(
            "\n| key | variable | value | default | what it does |\n|---|---|---|---|---|\n",
        );
        for key in section.keys {
            let variable = variable(section.name, key.name);
            let limits = key.limits.map_or(String::new(), |limits| format!(", {limits}"));
            let (name, kind, default, about) = (key.name, key.kind, key.default, key.about.trim());
            let _ = writeln!(
                text,
                "| `{name}` | `{variable}` | {kind}{limits} | `{default}` | {about} |"
            );
        }
    }
    text
}
