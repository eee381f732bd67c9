//! What a publish to a queue asks of it besides, by user properties.

use fluxmq_commands::command::queue::{Options, Verdict};
use fluxmq_proto::message::{Field, Head};

/// Priority, time and identity of a message, and how it is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    /// `priority`, 0 to 255.
    priority: u8,
    /// `deliver-at`, Unix ms, or `delay`, ms.
    deliver_at_ms: u64,
    /// `message-id`.
    message_id: &'a str,
    /// `later: true` beside `$nack`.
    later: bool,
}

// === impl Asked ===

impl<'a> Asked<'a> {
    /// None when one of them cannot be understood.
    pub(super) fn read(head: &'a [u8], now_ms: u64) -> Option<Self> {
        let mut asked = Self::default();
        for field in Head::read(head)?.fields() {
            let Field::UserProperty(name, value) = field else { continue };
            match name {
                "priority" => asked.priority = value.parse().ok()?,
                "deliver-at" => asked.deliver_at_ms = value.parse().ok()?,
                "delay" => asked.deliver_at_ms = now_ms.checked_add(value.parse().ok()?)?,
                "message-id" => asked.message_id = value,
                "later" => asked.later = value == "true",
                _ => {}
            }
        }
        Some(asked)
    }

    /// As the command says it, with the key of the address.
    pub(super) fn options(self, key: &'a str) -> Options<'a> {
        Options {
            priority: self.priority,
            deliver_at_ms: self.deliver_at_ms,
            message_id: self.message_id,
            key: key.as_bytes(),
            ..Options::default()
        }
    }

    /// What is said of a message, with the queue's back-off where that is asked for.
    pub(super) fn verdict(self, said: Verdict) -> Verdict {
        if said == Verdict::Return && self.later { Verdict::ReturnLater } else { said }
    }
}

#[cfg(test)]
mod tests {
    use fluxmq_proto::message::HeadWriter;

    use super::*;

    fn head(properties: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut head = HeadWriter::new(&mut out);
        for (name, value) in properties {
            head.field(Field::UserProperty(name, value));
        }
        head.finish();
        out
    }

    #[test]
    fn properties_are_understood_or_refused() {
        let all = head(&[("priority", "7"), ("x", "y"), ("delay", "50"), ("message-id", "m")]);
        let asked = Asked::read(&all, 1_000).expect("understood");
        let options = asked.options("k");
        assert_eq!((options.priority, options.deliver_at_ms), (7, 1_050));
        assert_eq!((options.message_id, options.key), ("m", &b"k"[..]));
        assert_eq!(Asked::read(&[], 0), Some(Asked::default()));
        let later = head(&[("later", "true")]);
        let verdict = |said| Asked::read(&later, 0).expect("understood").verdict(said);
        assert_eq!(verdict(Verdict::Return), Verdict::ReturnLater);
        assert_eq!(verdict(Verdict::Ack), Verdict::Ack);
        for wrong in
            [("priority", "high"), ("priority", "256"), ("deliver-at", "now"), ("delay", "-1")]
        {
            assert_eq!(Asked::read(&head(&[wrong]), 0), None, "{wrong:?}");
        }
    }
}
