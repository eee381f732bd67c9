//! Types of values: how each is read from a word, shown, and described.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use axum::http::Uri;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

use crate::listen::ListenAddress;

/// The type of a key.
pub(crate) trait Value: Sized + PartialOrd + fmt::Display {
    /// What a person is to write.
    const KIND: &'static str;

    /// Reads the text of an environment variable.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    fn read(text: &str) -> Result<Self, String>;

    /// How a limit is shown.
    fn limits(range: &RangeInclusive<Self>) -> String {
        format!("{} to {}", range.start(), range.end())
    }
}

macro_rules! number {
    ($($type:ident)+) => { $(
        impl Value for $type {
            const KIND: &'static str = "number";

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("{text:?} is not a number from {} to {}", $type::MIN, $type::MAX))
            }

            fn limits(range: &RangeInclusive<Self>) -> String {
                if *range.end() == $type::MAX {
                    return format!("at least {}", range.start());
                }
                format!("{} to {}", range.start(), range.end())
            }
        }
    )+ };
}

number! { u16 u32 u64 }

impl Value for bool {
    const KIND: &'static str = "`true` or `false`";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }
}

impl Value for ListenAddress {
    const KIND: &'static str = "`HOST:PORT`, a list of them, or `off`";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

/// Where the log lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub enum DataDir {
    /// In memory: nothing survives the process.
    Memory,
    /// In this directory.
    At(PathBuf),
}

// === impl DataDir ===

impl DataDir {
    /// The directory; None for memory.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Memory => None,
            Self::At(path) => Some(path),
        }
    }
}

impl FromStr for DataDir {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("a directory has a name; write DIR or memory".into()),
            "memory" => Ok(Self::Memory),
            path => Ok(Self::At(path.into())),
        }
    }
}

impl fmt::Display for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::At(path) => path.display().fmt(f),
        }
    }
}

impl Value for DataDir {
    const KIND: &'static str = "directory, or `memory`";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for DataDir {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// How much is logged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub struct LogLevel(String);

// === impl LogLevel ===

impl LogLevel {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        // openraft warns of what is in order, at every start of a group.
        Self("warn,openraft=error".into())
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match EnvFilter::try_new(text) {
            // A single word that is no level is taken for the name of a module by the library.
            Ok(_) if is_filter(text) => Ok(Self(text.into())),
            _ => Err(format!("{text:?} is no level; write error, warn, info, debug, trace or off")),
        }
    }
}

fn is_filter(text: &str) -> bool {
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    text.split(',').all(|part| levels.contains(&part.rsplit('=').next().unwrap_or(part).trim()))
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for LogLevel {
    const KIND: &'static str = "level, or levels by module";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `off` is a boolean to some readers of YAML, a word to others.
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// URLs of `logd` nodes, at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub struct LogdUrls(Vec<String>);

// === impl LogdUrls ===

impl LogdUrls {
    /// The URLs: `http://HOST:PORT` or `https://HOST:PORT`.
    #[must_use]
    pub fn all(&self) -> &[String] {
        &self.0
    }
}

impl Default for LogdUrls {
    fn default() -> Self {
        Self(vec!["http://127.0.0.1:7400".into()])
    }
}

impl FromStr for LogdUrls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let urls = text.split(',').map(|url| check_url(url.trim()));
        Ok(Self(urls.collect::<Result<_, _>>()?))
    }
}

fn check_url(text: &str) -> Result<String, String> {
    let wrong =
        || format!("{text:?} is no URL of logd; write http://HOST:PORT or https://HOST:PORT");
    let url: Uri = text.parse().map_err(|_| wrong())?;
    let has_port = url.port_u16().is_some() && url.host().is_some_and(|host| !host.is_empty());
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none();
    if !matches!(url.scheme_str(), Some("http" | "https")) || !has_port || !is_bare {
        return Err(wrong());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

impl fmt::Display for LogdUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Value for LogdUrls {
    const KIND: &'static str = "`http://HOST:PORT` or `https://HOST:PORT`, or a list of them";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for LogdUrls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word_or_list(deserializer, "a URL or a list of URLs")
    }
}

/// Reads a word, or a list of words as the word that separates them by commas.
pub(crate) fn word_or_list<'de, T, D>(deserializer: D, what: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err = String>,
    D: Deserializer<'de>,
{
    struct Words(&'static str);

    impl<'de> Visitor<'de> for Words {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<String, E> {
            Ok(word.to_owned())
        }

        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<String, E> {
            // YAML 1.1 takes `off` for false.
            if value { Err(E::custom(format!("expected {}", self.0))) } else { Ok("off".into()) }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<String, A::Error> {
            let mut words = Vec::new();
            while let Some(word) = list.next_element::<String>()? {
                words.push(word);
            }
            if words.is_empty() {
                return Err(A::Error::custom("the list is empty"));
            }
            Ok(words.join(","))
        }
    }

    deserializer.deserialize_any(Words(what))?.parse().map_err(D::Error::custom)
}
