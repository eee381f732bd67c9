//! Which connection has a client id, of gateways that are not alone (G1). Volatile: gateways say it again
//! after a restart. The last CONNECT has the id at once; it is answered when those before are gone.

use std::collections::HashMap;

/// How long a new connection waits for the one before it to be gone (G1).
const WAIT_MS: u64 = 2_000;

/// A connection: gateway epoch and token.
type Holder = (u64, u64);
type ClientKey = (String, String);

/// A connection that waits until others are gone.
struct Waiting {
    until_ms: u64,
    before: Vec<Holder>,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The holder has lost the client id.
    Taken { holder: Holder, client_id: String },
    /// The holder may go on.
    Free { holder: Holder },
}

/// Client ids of a shard's clients, or of all shards of a node.
#[derive(Default)]
pub(crate) struct Registrations {
    holders: HashMap<ClientKey, Holder>,
    keys: HashMap<Holder, ClientKey>,
    waiting: HashMap<Holder, Waiting>,
    said: Vec<Said>,
}

// === impl Registrations ===

impl Registrations {
    /// The newest connection of a client id.
    pub(crate) fn register(&mut self, vhost: &str, client_id: &str, holder: Holder, now_ms: u64) {
        let key = (vhost.to_owned(), client_id.to_owned());
        let previous = self.set(key, holder);
        // Within a gateway the older connection is gone before the newer one is registered.
        let Some(previous) = previous.filter(|p| p.0 != holder.0) else {
            self.said.push(Said::Free { holder });
            return;
        };
        let mut before = vec![previous];
        if let Some(waiting) = self.waiting.remove(&previous) {
            before.extend(waiting.before);
            self.said.push(Said::Free { holder: previous });
        }
        self.said.push(Said::Taken { holder: previous, client_id: client_id.to_owned() });
        // A fault planted to prove that the chaos harness finds it (design §12).
        if fluxmq_names::planted!("connack_before_the_old_one_is_gone") {
            self.said.push(Said::Free { holder });
            return;
        }
        self.waiting.insert(holder, Waiting { until_ms: now_ms + WAIT_MS, before });
    }

    /// It was registered before; who came later keeps the id.
    pub(crate) fn register_again(&mut self, vhost: &str, client_id: &str, holder: Holder) {
        let key = (vhost.to_owned(), client_id.to_owned());
        match self.holders.get(&key) {
            Some(other) if *other != holder && other.0 != holder.0 => {
                self.said.push(Said::Taken { holder, client_id: client_id.to_owned() });
            }
            _ => drop(self.set(key, holder)),
        }
    }

    /// The connection is gone.
    pub(crate) fn unregister(&mut self, holder: Holder) {
        if let Some(key) = self.keys.remove(&holder)
            && self.holders.get(&key) == Some(&holder)
        {
            self.holders.remove(&key);
        }
        self.waiting.remove(&holder);
        self.gone(|before| *before == holder);
    }

    /// A gateway is gone with all its connections.
    pub(crate) fn gateway_gone(&mut self, epoch: u64) {
        self.holders.retain(|_, holder| holder.0 != epoch);
        self.keys.retain(|holder, _| holder.0 != epoch);
        self.waiting.retain(|holder, _| holder.0 != epoch);
        self.gone(|before| before.0 == epoch);
    }

    /// Whoever waited long enough waits no longer.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.waiting.values_mut().filter(|w| w.until_ms <= now_ms).for_each(|w| w.before.clear());
        self.gone(|_| false);
    }

    /// When somebody has waited long enough.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.waiting.values().map(|w| w.until_ms).min()
    }

    /// Virtual host and client id of a connection that has one.
    pub(crate) fn key_of(&self, holder: Holder) -> Option<(&str, &str)> {
        self.keys.get(&holder).map(|(vhost, client_id)| (&**vhost, &**client_id))
    }

    /// What is to be said since the last call.
    pub(crate) fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    fn set(&mut self, key: ClientKey, holder: Holder) -> Option<Holder> {
        self.keys.insert(holder, key.clone());
        let previous = self.holders.insert(key, holder).filter(|p| *p != holder);
        if let Some(previous) = previous {
            self.keys.remove(&previous);
        }
        previous
    }

    fn gone(&mut self, is_gone: impl Fn(&Holder) -> bool) {
        for waiting in self.waiting.values_mut() {
            waiting.before.retain(|before| !is_gone(before));
        }
        let free: Vec<Holder> =
            self.waiting.iter().filter(|(_, w)| w.before.is_empty()).map(|(h, _)| *h).collect();
        for holder in free {
            self.waiting.remove(&holder);
            self.said.push(Said::Free { holder });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Holder = (1, 100);
    const TWO: Holder = (2, 100);
    const THREE: Holder = (3, 100);

    fn taken(holder: Holder) -> Said {
        Said::Taken { holder, client_id: "c".into() }
    }

    fn free(holder: Holder) -> Said {
        Said::Free { holder }
    }

    #[test]
    fn the_last_one_has_the_id_and_waits_until_the_one_before_is_gone() {
        let mut all = Registrations::default();
        all.register("/", "c", ONE, 0);
        assert_eq!(all.take_said(), [free(ONE)]);
        all.register("/", "c", TWO, 0);
        assert_eq!(all.take_said(), [taken(ONE)]);
        all.unregister(ONE);
        assert_eq!(all.take_said(), [free(TWO)]);
        all.unregister(TWO);
        assert!(all.holders.is_empty() && all.keys.is_empty() && all.waiting.is_empty());
    }

    #[test]
    fn a_third_waits_for_both_and_the_second_is_told_at_once() {
        let mut all = Registrations::default();
        all.register("/", "c", ONE, 0);
        all.register("/", "c", TWO, 0);
        all.take_said();
        all.register("/", "c", THREE, 0);
        assert_eq!(all.take_said(), [free(TWO), taken(TWO)]);
        all.unregister(TWO);
        assert_eq!(all.take_said(), []);
        all.gateway_gone(1);
        assert_eq!(all.take_said(), [free(THREE)]);
    }

    #[test]
    fn nobody_waits_longer_than_two_seconds() {
        let mut all = Registrations::default();
        all.register("/", "c", ONE, 0);
        all.register("/", "c", TWO, 5);
        all.take_said();
        assert_eq!(all.next_due_ms(), Some(5 + WAIT_MS));
        all.expire(4 + WAIT_MS);
        assert_eq!(all.take_said(), []);
        all.expire(5 + WAIT_MS);
        assert_eq!(all.take_said(), [free(TWO)]);
        assert_eq!(all.next_due_ms(), None);
    }

    #[test]
    fn who_was_there_before_a_restart_yields_to_who_came_since() {
        let mut all = Registrations::default();
        all.register_again("/", "c", ONE);
        all.register("/", "d", TWO, 0);
        all.take_said();
        all.register_again("/", "d", ONE);
        all.register_again("/", "c", ONE);
        assert_eq!(
            all.take_said(),
            [Said::Taken { holder: ONE, client_id: "d".into() }],
            "the same connection again changes nothing"
        );
    }
}
