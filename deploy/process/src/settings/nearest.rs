//! What was probably meant.

/// How alike two names must be (Jaro-Winkler, 0 to 1) for one to be proposed for the other.
const ALIKE_MIN: f64 = 0.75;
/// Names that are listed when none is alike.
const LISTED_MAX: usize = 20;

/// The end of a message about an unknown name.
pub(super) fn suggestion(unknown: &str, known: &[&str]) -> String {
    let alike = |name: &&str| strsim::jaro_winkler(&unknown.to_lowercase(), &name.to_lowercase());
    let nearest = known.iter().map(|name| (alike(name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((alike, name)) if alike >= ALIKE_MIN => format!("; did you mean `{name}`?"),
        _ if known.len() <= LISTED_MAX => format!("; known are {}", known.join(", ")),
        _ => "; see docs/configuration.md".into(),
    }
}
