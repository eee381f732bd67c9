//! What topics and filters below `$queue/` say, and what SUBSCRIBE asks of a queue besides.

use fluxmq_commands::command::queue::{Start, Verdict};
use mqtt_codec::{QoS, topic};

use crate::properties;

/// Topics below this are queues.
pub(crate) const PREFIX: &str = "$queue/";

/// A topic below `$queue/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address<'a> {
    /// The queue.
    pub(crate) name: &'a str,
    /// What stands behind it: the key of a message, `#` in a filter.
    pub(crate) rest: &'a str,
}

// === impl Address ===

impl<'a> Address<'a> {
    /// None for any other topic or filter.
    pub(crate) fn of(topic: &'a str) -> Option<Self> {
        let path = topic.strip_prefix(PREFIX)?;
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        (!name.is_empty()).then_some(Self { name, rest })
    }

    /// What a publish to this address says of a message that its publisher holds.
    pub(super) fn verdict(self) -> Option<Verdict> {
        match self.rest {
            "$ack" => Some(Verdict::Ack),
            "$nack" => Some(Verdict::Return),
            "$reject" => Some(Verdict::Reject),
            _ => None,
        }
    }
}

/// What a filter consumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A queue by name, and a group of it.
    Queue { name: Box<str>, group: Option<Box<str>>, with_path: bool },
    /// The hidden queue of a shared subscription: group and filter.
    Shared { group: Box<str>, filter: Box<str> },
}

// === impl Source ===

impl Source {
    /// What `filter` consumes, None for a filter of topics.
    pub(crate) fn of(filter: &str, qos: QoS) -> Option<Self> {
        let (group, plain) = match topic::shared(filter) {
            Some((group, plain)) => (Some(group), plain),
            None => (None, filter),
        };
        if let Some(Address { name, rest }) = Address::of(plain) {
            let (name, group) = (name.into(), group.map(Into::into));
            return Some(Self::Queue { name, group, with_path: !rest.is_empty() });
        }
        let group = group.filter(|_| qos != QoS::AtMostOnce)?;
        Some(Self::Shared { group: group.into(), filter: plain.into() })
    }

    /// What is granted to who asks for `qos`.
    pub(crate) fn grants(&self, qos: QoS) -> QoS {
        match self {
            // What is leased by name is settled once, by PUBACK or by name.
            Self::Queue { .. } => qos.min(QoS::AtLeastOnce),
            Self::Shared { .. } => qos,
        }
    }
}

/// Bytes of the name of a group (as of any queue).
const GROUP_BYTES_MAX: usize = 255;

/// What SUBSCRIBE asked of a queue besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The group, as `consumer-group` says.
    pub(crate) group: Option<Box<str>>,
    /// Where a group begins that is new, as `start` says.
    pub(crate) start: Option<Start>,
    /// Messages are settled by `$ack`, `$nack` and `$reject`, as `ack: manual` says.
    pub(crate) manual: bool,
}

// === impl Wishes ===

impl Wishes {
    /// From the user properties of SUBSCRIBE; None when one of them cannot be understood.
    pub(crate) fn read<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut wishes = Self::default();
        for (name, value) in all {
            match name {
                "consumer-group" if value.len() > GROUP_BYTES_MAX => return None,
                "consumer-group" => wishes.group = Some(value.into()),
                "ack" => wishes.manual = value == "manual",
                "start" => wishes.start = Some(start(value)?),
                _ => {}
            }
        }
        Some(wishes)
    }

    /// As text that is kept with the session's subscription: `name=value`, a line each. The name of a group has no
    /// control characters, or there is no such group.
    pub(crate) fn to_text(&self) -> String {
        let group = self.group.as_ref().map(|group| format!("consumer-group={group}\n"));
        let start = self.start.map(|start| match start {
            Start::First => "start=first\n".into(),
            Start::Last => "start=last\n".into(),
            Start::Next => "start=next\n".into(),
            Start::Offset(offset) => format!("start={offset}\n"),
            Start::Time(ms) => format!("start=time={ms}\n"),
        });
        let manual = self.manual.then(|| "ack=manual\n".into());
        [group, start, manual].into_iter().flatten().collect()
    }

    /// What [`Self::to_text`] made; what it cannot have made says nothing.
    pub(crate) fn from_text(text: &str) -> Self {
        Self::read(text.lines().filter_map(|line| line.split_once('='))).unwrap_or_default()
    }
}

/// `first`, `last`, `next`, an offset, or `time=` and Unix ms.
fn start(value: &str) -> Option<Start> {
    Some(match value {
        "first" => Start::First,
        "last" => Start::Last,
        "next" => Start::Next,
        _ => match value.strip_prefix("time=") {
            Some(ms) => Start::Time(ms.parse().ok()?),
            None => Start::Offset(value.parse().ok()?),
        },
    })
}
/// The offset a `$ack`, `$nack` or `$reject` is about: its user property `offset`, or its payload.
pub(crate) fn offset_of(publish: &mqtt_codec::Publish<'_>) -> Option<u64> {
    let named =
        properties::user(&publish.properties).find(|(name, _)| *name == "offset").map(|(_, v)| v);
    let text = named.or_else(|| std::str::from_utf8(publish.payload).ok())?;
    text.trim().parse().ok()
}

/// Whether a SUBSCRIBE says something of queues that cannot be understood.
pub(crate) fn wishes_of(subscribe: &mqtt_codec::Subscribe<'_>) -> Option<Wishes> {
    Wishes::read(properties::user(&subscribe.properties))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_name_and_a_path() {
        let of = |topic| Address::of(topic).map(|a| (a.name, a.rest));
        assert_eq!(of("$queue/a"), Some(("a", "")));
        assert_eq!(of("$queue/a/b/c"), Some(("a", "b/c")));
        assert_eq!(of("$queue/"), None);
        assert_eq!(of("queue/a"), None);
        let verdict = |topic| Address::of(topic).and_then(Address::verdict);
        assert_eq!(verdict("$queue/a/$nack"), Some(Verdict::Return));
        assert_eq!(verdict("$queue/a/$nack/b"), None);
    }

    #[test]
    fn what_a_filter_consumes() {
        let queue = |group: Option<&str>, with_path| Source::Queue {
            name: "q".into(),
            group: group.map(Into::into),
            with_path,
        };
        let one = QoS::AtLeastOnce;
        assert_eq!(Source::of("$queue/q", one), Some(queue(None, false)));
        assert_eq!(Source::of("$queue/q/#", one), Some(queue(None, true)));
        assert_eq!(Source::of("$share/g/$queue/q", one), Some(queue(Some("g"), false)));
        let shared = Source::Shared { group: "g".into(), filter: "a/+".into() };
        assert_eq!(Source::of("$share/g/a/+", one), Some(shared));
        assert_eq!(Source::of("$share/g/a/+", QoS::AtMostOnce), None, "QoS 0 is live");
        assert_eq!(Source::of("a/+", one), None);
    }

    #[test]
    fn wishes_are_kept_as_text() {
        let starts = [Start::First, Start::Last, Start::Next, Start::Offset(7), Start::Time(8)];
        for start in starts.map(Some).into_iter().chain([None]) {
            for group in [None, Some("a=b c".into())] {
                for manual in [false, true] {
                    let wishes = Wishes { group: group.clone(), start, manual };
                    assert_eq!(Wishes::from_text(&wishes.to_text()), wishes);
                }
            }
        }
        assert_eq!(Wishes::default().to_text(), "");
    }

    #[test]
    fn wishes_are_understood_or_refused() {
        let read = |all: &[(&str, &str)]| Wishes::read(all.iter().copied());
        let wishes =
            read(&[("x", "y"), ("consumer-group", "g"), ("start", "time=7"), ("ack", "manual")]);
        let wishes = wishes.expect("understood");
        assert_eq!((wishes.group.as_deref(), wishes.manual), (Some("g"), true));
        assert_eq!(wishes.start, Some(Start::Time(7)));
        assert_eq!(read(&[("start", "12")]).and_then(|w| w.start), Some(Start::Offset(12)));
        assert!(read(&[("start", "yesterday")]).is_none());
        assert!(read(&[("consumer-group", &"g".repeat(256))]).is_none());
    }
}
