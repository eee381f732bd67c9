//! Topic names, filters and client ids, checked once at the edge (design §4; MQTT 5 §4.7).

/// Bytes of a topic name or filter (MQTT 5 §1.5.4).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Why a name is refused, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameError(pub &'static str);

impl std::fmt::Display for NameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NameError {}

/// Checks a topic name.
///
/// # Errors
/// Empty, too long, or with a wildcard or U+0000.
pub fn validate_topic(topic: &str) -> Result<(), NameError> {
    if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
        return Err(NameError("topic name is empty or too long"));
    }
    if topic.contains(['+', '#', '\0']) {
        return Err(NameError("topic name contains a wildcard or a null character"));
    }
    Ok(())
}

/// Checks a topic filter that is not shared.
///
/// # Errors
/// Empty, too long, a wildcard that does not fill its level, `#` before the end, U+0000.
pub fn validate_filter(filter: &str) -> Result<(), NameError> {
    if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX || filter.contains('\0') {
        return Err(NameError("topic filter is empty or too long"));
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains(['+', '#']) && level.len() > 1 {
            return Err(NameError("a wildcard must fill its level"));
        }
        if level == "#" && levels.peek().is_some() {
            return Err(NameError("# must be the last level"));
        }
    }
    Ok(())
}

/// Checks the name of a queue or consumer group: 1 to 255 bytes, no control characters.
///
/// # Errors
/// Empty, too long, or with a control character.
pub fn validate_queue_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > 255 {
        return Err(NameError("queue or group name is empty or longer than 255 bytes"));
    }
    if name.contains(char::is_control) {
        return Err(NameError("queue or group name contains a control character"));
    }
    Ok(())
}

/// Checks a client id: not empty, at most 1,024 bytes.
///
/// # Errors
/// Empty or too long.
pub fn validate_client_id(id: &str) -> Result<(), NameError> {
    if id.is_empty() || id.len() > 1_024 {
        return Err(NameError("client id is empty or too long"));
    }
    Ok(())
}

/// Whether `filter` matches `topic`; a leading wildcard never matches a `$` level (Q8).
#[must_use]
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for want in filter.split('/') {
        match (want, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (want, Some(level)) if want == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_by_level() {
        for (filter, topic, want) in [
            ("a/#", "a", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("+/+", "/x", true),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(filter_matches(filter, topic), want, "{filter} {topic}");
        }
    }

    #[test]
    fn names_that_are_no_names() {
        assert!(validate_filter("a/#").is_ok() && validate_topic("a").is_ok());
        for bad in ["", "a#", "#/a", "+a", "a\0"] {
            assert!(validate_filter(bad).is_err(), "{bad}");
        }
        for bad in ["", "a/+", "\0"] {
            assert!(validate_topic(bad).is_err(), "{bad}");
        }
        assert!(validate_client_id("").is_err() && validate_client_id(&"x".repeat(1_025)).is_err());
    }
}
