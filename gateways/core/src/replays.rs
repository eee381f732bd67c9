//! Subscribers that are being sent retained messages, and the topics of which they have got a newer one live
//! meanwhile: what is read of those is old (R9).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// Topics remembered of a subscriber; one that gets more while it reads is too slow (R8).
const TOPICS_MAX: usize = 4_096;

/// What one subscriber has under way.
#[derive(Default)]
struct Replay {
    reads: u32,
    topics: HashSet<Box<str>>,
}

/// All of a routing thread, by the token of the connection. Empty most of the time.
#[derive(Default)]
pub struct Replays(RefCell<HashMap<u64, Replay>>);

// === impl Replays ===

impl Replays {
    /// A read begins; to be called before the subscription is in the routes.
    pub fn begin(&self, token: u64) {
        self.0.borrow_mut().entry(token).or_default().reads += 1;
    }

    /// It has ended.
    pub fn end(&self, token: u64) {
        let mut all = self.0.borrow_mut();
        let Some(replay) = all.get_mut(&token) else { return };
        replay.reads -= 1;
        if replay.reads == 0 {
            all.remove(&token);
        }
    }

    /// A message that is to be retained goes live to the subscriber; false when those are too many.
    pub fn note(&self, token: u64, topic: &str) -> bool {
        let mut all = self.0.borrow_mut();
        let Some(replay) = all.get_mut(&token) else { return true };
        if replay.topics.contains(topic) {
            return true;
        }
        let room = replay.topics.len() < TOPICS_MAX;
        if room {
            replay.topics.insert(topic.into());
        }
        room
    }

    /// The subscriber has got a newer message of the topic.
    pub fn is_overtaken(&self, token: u64, topic: &str) -> bool {
        // A fault planted to prove that the chaos harness finds it (design §12).
        !fluxmq_names::planted!("retained_race")
            && self.0.borrow().get(&token).is_some_and(|replay| replay.topics.contains(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_live_is_remembered_until_the_last_read_ends() {
        let replays = Replays::default();
        assert!(replays.note(1, "t") && !replays.is_overtaken(1, "t"), "nothing is read");
        replays.begin(1);
        replays.begin(1);
        assert!(replays.note(1, "t") && replays.note(2, "t"));
        assert!(replays.is_overtaken(1, "t") && !replays.is_overtaken(2, "t"));
        replays.end(1);
        assert!(replays.is_overtaken(1, "t"), "another read goes on");
        replays.end(1);
        assert!(!replays.is_overtaken(1, "t") && replays.0.borrow().is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let replays = Replays::default();
        replays.begin(1);
        assert!((0..TOPICS_MAX).all(|n| replays.note(1, &n.to_string())));
        assert!(!replays.note(1, "more") && replays.note(1, "0"));
    }
}
