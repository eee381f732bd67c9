//! Settings in the environment: `FLUXMQ_SECTION_KEY`.

use std::ffi::OsString;

use super::layer::{Apply, Layers};
use super::nearest::suggestion;
use super::reference;
use super::sections::Settings;

const PREFIX: &str = "FLUXMQ_";

/// Takes over every variable that begins with `FLUXMQ_`.
pub(super) fn apply(
    settings: &mut Settings,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    apply: &mut Apply,
) {
    let mut variables: Vec<(String, OsString)> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    // In an order that does not change from run to run.
    variables.sort();
    for (variable, value) in variables {
        let Some(text) = value.to_str() else {
            apply.problems.push(format!("{variable} is not UTF-8"));
            continue;
        };
        let name = &variable[PREFIX.len()..];
        if is_upper(name) && settings.apply_variable(name, text, apply) || is_service_link(name) {
            continue;
        }
        let known: Vec<String> = reference::variables().collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        apply
            .problems
            .push(format!("unknown variable `{variable}`{}", suggestion(&variable, &known)));
    }
}

fn is_upper(name: &str) -> bool {
    !name.contains(|c: char| c.is_ascii_lowercase())
}

/// Kubernetes tells every container the addresses of services by such variables; with a service called `fluxmq` or
/// `fluxmq-logd` they begin like ours, and nobody wrote them.
fn is_service_link(name: &str) -> bool {
    let ports =
        name.strip_prefix("PORT").or_else(|| name.split_once("_PORT").map(|(_, rest)| rest));
    let is_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix('_').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("SERVICE_HOST") || name.contains("SERVICE_PORT") || ports.is_some_and(is_port)
}
