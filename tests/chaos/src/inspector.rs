//! Looks, when nothing is under way, at what is kept: retained messages and sessions.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_codec::Version;

use crate::check::{INSPECTOR, NOTHING, SILENT, SUBSCRIBED};
use crate::client::{Client, Options, message};
use crate::ledger::{Kind, Ledger, Pen};
use crate::load::{KEPT, SESSION};

/// Sessions looked at in one round.
const SESSIONS: usize = 12;
/// MQTT 5's "no matching subscribers".
const NOBODY: u8 = 0x10;

/// Looks and notes what he finds.
pub struct Inspector {
    random: fastrand::Rng,
    /// Messages published so far.
    published: u64,
}

// === impl Inspector ===

impl Inspector {
    /// One who chooses by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), published: 0 }
    }

    /// Notes all kept topics and some sessions, or all of them; returns how many.
    ///
    /// # Panics
    /// The broker does not answer.
    pub fn look(&mut self, port: u16, ledger: &Ledger, all: bool) -> u64 {
        let subjects: BTreeSet<String> = ledger
            .records()
            .into_iter()
            .filter(|r| r.kind == Kind::Acknowledged)
            .map(|r| r.subject)
            .filter(|s| s.starts_with(KEPT) || s.starts_with(SESSION))
            .collect();
        let mut pen = ledger.pen();
        let (kept, mut sessions): (Vec<_>, Vec<_>) =
            subjects.into_iter().partition(|s| s.starts_with(KEPT));
        let found = self.kept(port);
        for topic in &kept {
            let number = found.get(topic).copied().unwrap_or(NOTHING);
            pen.note(Kind::Received, &format!("{INSPECTOR}<{topic}"), number);
        }
        if !all {
            self.random.shuffle(&mut sessions);
            sessions.truncate(SESSIONS);
        }
        for session in &sessions {
            self.session(port, session, &mut pen);
        }
        pen.keep();
        (kept.len() + sessions.len()) as u64
    }

    fn kept(&mut self, port: u16) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let mut client = Client::reach(port, &Options::clean(INSPECTOR, Version::V5));
        // One more than there is, so that it is known when all have come.
        let last = format!("{KEPT}last");
        let mut mark = message(&last, 1, 1, &[0; 8]);
        mark.retain = true;
        client.publish(&mark).expect("taken");
        // Topics come in their order, shard by shard: the mark of each pass comes in any place.
        client.subscribe(&format!("{KEPT}#"), 1).expect("subscribed");
        while let Some(packet) =
            client.read_within(std::time::Duration::from_millis(150)).expect("it stands")
        {
            if let Some(got) = client.answer(&packet).expect("it stands") {
                assert!(got.retain, "nothing is published now: {got:?}");
                found.insert(got.topic.clone(), got.number());
            }
        }
        assert!(found.contains_key(&last), "what was just kept is there");
        found
    }

    fn session(&mut self, port: u16, session: &str, pen: &mut Pen) {
        self.published += 1;
        let payload = self.published.to_be_bytes();
        let mut publisher = Client::reach(port, &Options::clean("postman", Version::V5));
        let to = message(&format!("to/{session}"), 1, 1, &payload);
        let reason = publisher.publish(&to).expect("taken");
        let mut client = Client::reach(port, &Options::persistent(session, Version::V5));
        let mut state = if client.present { SILENT } else { NOTHING };
        if client.present && reason != NOBODY {
            // What it had before may come again: its last PUBACK may have been lost in a crash.
            while client.receive().expect("delivered").payload != payload {}
            state = SUBSCRIBED;
        }
        pen.note(Kind::Received, &format!("{INSPECTOR}<{session}"), state);
        client.disconnect().expect("it stands");
    }
}
