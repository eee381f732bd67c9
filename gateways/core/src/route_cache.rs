//! What a publisher's connection remembers of the last topics it published to (R7).

use std::rc::Rc;

use crate::route_table::{Destinations, RouteTable};

/// Topics remembered by a connection.
const ENTRIES: usize = 8;

struct Entry {
    topic: Box<str>,
    generation: u64,
    to: Rc<Destinations>,
    verdict: u8,
}

/// The routes of up to eight topics, the most recently used first. Owns nothing before its first use.
#[derive(Default)]
pub struct RouteCache {
    entries: Vec<Entry>,
}

// === impl RouteCache ===

impl RouteCache {
    /// Where `topic` goes, and what `check` says of it, which is asked when the topic is new here. A route stays cached
    /// while no change touches its topic.
    pub fn resolve(
        &mut self,
        table: &RouteTable,
        topic: &str,
        check: impl FnOnce() -> u8,
    ) -> (Rc<Destinations>, u8) {
        let at = self.entries.iter().position(|e| *e.topic == *topic);
        if let Some(at) = at {
            if at > 0 {
                self.entries.swap(0, at);
            }
            let entry = &mut self.entries[0];
            if entry.generation != table.generation() {
                if !table.still_valid(topic, entry.generation) {
                    entry.to = Rc::new(table.resolve(topic));
                }
                entry.generation = table.generation();
            }
            return (entry.to.clone(), entry.verdict);
        }
        let to = Rc::new(table.resolve(topic));
        self.entries.truncate(ENTRIES - 1);
        let (generation, verdict) = (table.generation(), check());
        self.entries.insert(0, Entry { topic: topic.into(), generation, to: to.clone(), verdict });
        (to, verdict)
    }
}
