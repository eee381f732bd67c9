//! Values of the `security` and TLS keys: users, rules, and words for choices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::value::{Value, word_or_list};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSettings {
    /// User name.
    pub name: String,
    /// Argon2 hash of the password in PHC form; none = no password.
    #[serde(default)]
    pub password_hash: Option<String>,
    /// SCRAM-SHA-256 credential; none = no SCRAM.
    #[serde(default)]
    pub scram: Option<String>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
}

/// What is to be done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Send messages to it.
    Publish,
    /// Get messages from it.
    Subscribe,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSettings {
    /// What it says.
    pub effect: Effect,
    /// Users it is for; empty = everybody.
    #[serde(default)]
    pub users: Vec<String>,
    /// Actions it is for; empty = all.
    #[serde(default)]
    pub actions: Vec<Action>,
    /// Topic filters it is for; `%u` is the user name, `%c` the client id.
    pub topics: Vec<String>,
}

macro_rules! list {
    ($($(#[doc = $doc:literal])+ $name:ident of $item:ident, $kind:literal;)+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Vec<$item>);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.0.is_empty() { f.write_str("none") } else { write!(f, "{}", self.0.len()) }
            }
        }

        impl Value for $name {
            const KIND: &'static str = $kind;

            fn read(text: &str) -> Result<Self, String> {
                serde_saphyr::from_str(text).map_err(|e| e.to_string())
            }
        }
    )+ };
}

list! {
    /// Users.
    Users of UserSettings, "list of `{name, password_hash, scram}`";
    /// Rules, in their order.
    Rules of RuleSettings, "list of `{effect, users, actions, topics}`";
    /// Patterns of client identifiers.
    ClientIds of String, "list of patterns";
}

/// A text of one line; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd)]
pub struct Text(pub String);

/// What is asked of clients by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub enum ClientCertificate {
    /// Nothing.
    #[default]
    None,
    /// A certificate, if they have one.
    Optional,
    /// A certificate.
    Required,
}

/// From which pages a browser may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd)]
pub enum Origins {
    /// Pages of the same host.
    #[default]
    SameHost,
    /// Any.
    Any,
    /// These.
    These(Vec<String>),
}

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(char::is_control) {
            return Err(format!("{text:?} is not a text of one line"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for ClientCertificate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err(format!("{text:?} is neither none, optional nor required")),
        }
    }
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "same-host" => return Ok(Self::SameHost),
            "any" => return Ok(Self::Any),
            _ => {}
        }
        let these: Vec<_> = text.split(',').map(|o| o.trim().to_owned()).collect();
        let bad = these.iter().find(|o| !o.contains("://") || o.contains(char::is_control));
        match bad {
            Some(o) => {
                Err(format!("{o:?} is no origin; write same-host, any, or https://HOST:PORT"))
            }
            None => Ok(Self::These(these)),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { &self.0 })
    }
}

impl fmt::Display for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Optional => "optional",
            Self::Required => "required",
        })
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameHost => f.write_str("same-host"),
            Self::Any => f.write_str("any"),
            Self::These(these) => f.write_str(&these.join(",")),
        }
    }
}

macro_rules! word {
    ($($name:ident $kind:literal $what:literal)+) => { $(
        impl Value for $name {
            const KIND: &'static str = $kind;

            fn read(text: &str) -> Result<Self, String> {
                text.parse()
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                word_or_list(deserializer, $what)
            }
        }
    )+ };
}

word! {
    Text "text" "a text"
    ClientCertificate "`none`, `optional` or `required`" "none, optional or required"
    Origins "`same-host`, `any`, or a list of `https://HOST:PORT`" "a word or a list of origins"
}
