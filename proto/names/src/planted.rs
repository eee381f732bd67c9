//! Faults that are planted to prove that a harness finds them (design §12). A build has none.

/// Whether the fault of this name is planted: by `--cfg planted="name"`, or, under `--cfg planted="by_name"`, by the
/// variable `PLANTED_FAULT` of the environment, so that many faults take one build.
#[macro_export]
macro_rules! planted {
    ($name:tt) => {
        cfg!(planted = $name) || $crate::planted_by_name($name)
    };
}

/// What [`planted!`] asks where faults are named by the environment.
#[cfg(planted = "by_name")]
#[must_use]
pub fn planted_by_name(name: &str) -> bool {
    static NAMED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAMED.get_or_init(|| std::env::var("PLANTED_FAULT").ok()).as_deref() == Some(name)
}

/// What [`planted!`] asks where faults are named by the environment: nowhere but in such a build.
#[cfg(not(planted = "by_name"))]
#[must_use]
#[inline]
pub const fn planted_by_name(_: &str) -> bool {
    false
}
