//! Topic names and topic filters (MQTT 5 §4.7, §4.8.2).

/// Why a name is not well-formed, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicError(pub &'static str);

/// Checks a topic name: not empty, no wildcard, no U+0000.
///
/// # Errors
/// Says which rule is broken.
#[inline]
pub fn validate_topic(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() {
        return Err(TopicError("topic name is empty"));
    }
    if topic.bytes().any(|b| b == b'+' || b == b'#' || b == 0) {
        return Err(TopicError("topic name contains a wildcard")); // MQTT-3.3.2-2
    }
    Ok(())
}

/// Checks a topic filter: wildcards fill whole levels, `#` is the last (MQTT-4.7.1-1, -2), a shared
/// subscription has a group name without wildcards and a filter (MQTT-4.8.2-1, -2).
///
/// # Errors
/// Says which rule is broken.
pub fn validate_filter(filter: &str) -> Result<(), TopicError> {
    let plain = match filter.strip_prefix("$share/") {
        None => filter,
        Some(rest) => {
            let (group, plain) =
                rest.split_once('/').ok_or(TopicError("shared subscription without a filter"))?;
            if group.is_empty() || group.contains(['+', '#']) {
                return Err(TopicError("shared subscription without a proper group name"));
            }
            plain
        }
    };
    if plain.is_empty() || filter.contains('\0') {
        return Err(TopicError("topic filter is empty"));
    }
    let mut levels = plain.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.contains(['+', '#']);
        if wild && level.len() > 1 {
            return Err(TopicError("a wildcard must fill its level"));
        }
        if level == "#" && levels.peek().is_some() {
            return Err(TopicError("# must be the last level"));
        }
    }
    Ok(())
}

/// Group and filter of a shared subscription.
#[must_use]
pub fn shared(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}

/// Whether `filter` (not shared) matches `topic`; the reference for faster ones.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false; // MQTT-4.7.2-1
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(want), Some(level)) if want == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for good in [
            "#",
            "+",
            "a/#",
            "a/+/b",
            "/",
            "/a",
            "a//b",
            "$SYS/#",
            "$share/g/a/#",
            "$share/g//",
            "$share",
        ] {
            assert_eq!(validate_filter(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a#",
            "#/a",
            "a/#/b",
            "a+",
            "+a/b",
            "$share/g",
            "$share//a",
            "$share/g/",
            "$share/+/a",
        ] {
            assert!(validate_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert!(validate_topic("a/ /b").is_ok());
        for bad in ["", "a/+", "#", "a\0"] {
            assert!(validate_topic(bad).is_err());
        }
    }

    #[test]
    fn matching() {
        assert!(matches("a/+/#", "a/b"));
        assert!(!matches("+/x", "$SYS/x"));
        assert!(matches("$SYS/+", "$SYS/x"));
        assert!(!matches("a", "a/b"));
        assert!(matches("a/#", "a"));
    }
}
