//! The retained store of a shard: topic → position, in the order of the topics' levels.
//!
//! A list of sorted chunks behind `Arc`s (S10): a snapshot clones the pointers, and the first write to a
//! chunk after that copies it, keys shared. Where chunks begin depends on the history and is no part of
//! the state. A wildcard walks from one candidate to the next and skips what cannot match, so a page costs
//! what it looks at, and that is bounded.

use std::sync::Arc;

use fluxmq_names::filter_matches;

use crate::limits::{RETAINED_MAX, STEPS_MAX};
use crate::pages::Pages;
use fluxmq_commands::wire::{Reader, WireError, Write};

/// Entries of a chunk before it is split.
const CHUNK: usize = 512;

/// A retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Where it is.
    pub position: u64,
    /// As published.
    pub qos: u8,
    /// Absolute expiry, Unix ms.
    pub expiry_ms: Option<u64>,
    /// Bytes of its message; 0 where it was retained before they were counted.
    pub size: u32,
}

/// How much a shard retains; what is over it is refused, with `LimitExceeded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Topics with a message.
    pub messages: u64,
    /// Bytes of their messages.
    pub bytes: u64,
}

impl Default for RetainedLimits {
    /// No limit but the largest number of messages there may be.
    fn default() -> Self {
        Self { messages: RETAINED_MAX, bytes: u64::MAX }
    }
}

/// A page of retained messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainedPage {
    /// Topics and messages, in the store's order: by level, a topic before those below it.
    pub entries: Vec<(String, Retained)>,
    /// Where to go on: the page was full, or a wildcard had to look at too many topics. None = no more.
    pub next: Option<String>,
}

/// The vhost and the levels of the topic with U+0000 between them, which no topic contains: so the order
/// of the bytes is that of the levels.
type Key = Arc<str>;

/// Topic → message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetainedStore {
    chunks: Vec<Arc<Vec<(Key, Retained)>>>,
    len: usize,
    bytes: u64,
}

/// The key of a topic; also what is left of a filter before its first wildcard.
pub(crate) fn key(vhost: &str, topic: &str) -> Key {
    let mut key = String::with_capacity(vhost.len() + topic.len() + 1);
    key.push_str(vhost);
    for level in topic.split('/') {
        key.push('\0');
        key.push_str(level);
    }
    key.into()
}

/// The topic of a key.
fn topic_of(key: &str) -> String {
    key.split_once('\0').map_or(String::new(), |(_, topic)| topic.replace('\0', "/"))
}

// === impl RetainedStore ===

impl RetainedStore {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of all messages.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The chunk a key is in or belongs into, and its place there.
    fn find(&self, key: &str) -> (usize, Result<usize, usize>) {
        let chunk = self.chunks.partition_point(|c| c.first().is_some_and(|(k, _)| &**k <= key));
        let chunk = chunk.saturating_sub(1);
        let at = self.chunks.get(chunk).map(|c| c.binary_search_by(|(k, _)| (**k).cmp(key)));
        (chunk, at.unwrap_or(Err(0)))
    }

    pub(crate) fn get(&self, key: &str) -> Option<Retained> {
        let (chunk, at) = self.find(key);
        Some(self.chunks[chunk][at.ok()?].1)
    }

    /// Sets the message of a topic and returns the one before.
    pub(crate) fn insert(&mut self, key: Key, value: Retained) -> Option<Retained> {
        let (at, place) = self.find(&key);
        if self.chunks.is_empty() {
            self.chunks.push(Arc::default());
        }
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        self.bytes += u64::from(value.size);
        match place {
            Ok(place) => {
                let old = std::mem::replace(&mut chunk[place].1, value);
                self.bytes -= u64::from(old.size);
                return Some(old);
            }
            Err(place) => chunk.insert(place, (key, value)),
        }
        self.len += 1;
        if chunk.len() > CHUNK {
            let rest = chunk.split_off(CHUNK / 2);
            self.chunks.insert(at + 1, Arc::new(rest));
        }
        None
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Retained> {
        let (at, place) = self.find(key);
        let place = place.ok()?;
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        let (_, removed) = chunk.remove(place);
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
        self.len -= 1;
        self.bytes -= u64::from(removed.size);
        Some(removed)
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Retained)> {
        self.chunks.iter().flat_map(|c| c.iter().map(|(k, r)| (k, r)))
    }

    /// The first entry whose key is at or above `key`.
    fn seek(&self, key: &str) -> Option<&(Key, Retained)> {
        let (chunk, place) = self.find(key);
        let place = place.unwrap_or_else(|p| p);
        let here = self.chunks.get(chunk)?.get(place);
        here.or_else(|| self.chunks.get(chunk + 1)?.first())
    }

    /// Up to `max` messages that match and come behind the topic `after`, and are not expired. Looks at no
    /// more than [`STEPS_MAX`] topics.
    pub(crate) fn page(
        &self,
        (vhost, filter): (&str, &str),
        after: &str,
        max: usize,
        now_ms: u64,
    ) -> RetainedPage {
        let mut page = RetainedPage::default();
        let mut from = key(vhost, first_candidate(filter)).to_string();
        if !after.is_empty() {
            // The least key above that of `after`.
            from = from.max(format!("{}\0", key(vhost, after)));
        }
        let under = format!("{vhost}\0");
        let mut last = String::new();
        for _ in 0..STEPS_MAX {
            let found = self.seek(&from).filter(|(k, _)| k.starts_with(&under));
            let Some((found, retained)) = found else { return page };
            let topic = topic_of(found);
            if filter_matches(filter, &topic) {
                if retained.expiry_ms.is_none_or(|ms| ms > now_ms) {
                    if page.entries.len() == max {
                        page.next = page.entries.last().map(|(topic, _)| topic.clone());
                        return page;
                    }
                    page.entries.push((topic, *retained));
                }
                from = format!("{found}\0");
                continue;
            }
            match next_candidate(filter, &topic) {
                Some(next) => from = format!("{under}{next}").max(format!("{found}\0")),
                None => return page,
            }
            last = topic;
        }
        page.next = Some(last);
        page
    }

    pub(crate) fn save(&self, pages: &mut Pages<'_>) {
        pages.page.put_u64(self.len as u64);
        for (key, retained) in self.iter() {
            let out = &mut pages.page;
            out.put_str(key);
            out.put_u64(retained.position);
            out.put_u8(retained.qos);
            out.put_u64(retained.expiry_ms.unwrap_or(u64::MAX));
            out.put_u32(retained.size);
            pages.turn();
        }
    }

    /// Reads what [`Self::save`] wrote; before version 5 of a snapshot it had no sizes.
    pub(crate) fn load(r: &mut Reader<'_>, version: u16) -> Result<Self, WireError> {
        let mut store = Self::default();
        let mut chunk: Vec<(Key, Retained)> = Vec::new();
        for _ in 0..r.u64()? {
            let key: Key = r.str()?.into();
            let (position, qos, expiry) = (r.u64()?, r.u8()?, r.u64()?);
            let expiry_ms = (expiry != u64::MAX).then_some(expiry);
            let size = if version >= 5 { r.u32()? } else { 0 };
            let last = chunk.last().or_else(|| store.chunks.last()?.last());
            if last.is_some_and(|(last, _)| *last >= key) {
                return Err(WireError("retained topics out of order"));
            }
            chunk.push((key, Retained { position, qos, expiry_ms, size }));
            store.len += 1;
            store.bytes += u64::from(size);
            if chunk.len() == CHUNK {
                store.chunks.push(Arc::new(std::mem::take(&mut chunk)));
            }
        }
        if !chunk.is_empty() {
            store.chunks.push(Arc::new(chunk));
        }
        Ok(store)
    }
}

/// The literal levels a filter begins with.
fn first_candidate(filter: &str) -> &str {
    let end = filter.split_inclusive('/').take_while(|l| !matches!(*l, "+" | "+/" | "#"));
    let len: usize = end.map(str::len).sum();
    filter[..len].strip_suffix('/').filter(|_| len < filter.len()).unwrap_or(&filter[..len])
}

/// The least key behind that of `topic`, which does not match, that may match; without the vhost. None:
/// there is none.
fn next_candidate(filter: &str, topic: &str) -> Option<String> {
    let wanted: Vec<&str> = filter.split('/').collect();
    let levels: Vec<&str> = topic.split('/').collect();
    // As far as both agree; a leading wildcard hides what begins with `$`.
    let hidden = levels[0].starts_with('$') && matches!(wanted[0], "+" | "#");
    let agrees = |n: &usize| {
        let (wanted, level) = (wanted[*n], levels[*n]);
        wanted == "+" && !(hidden && *n == 0) || wanted == level
    };
    let agree = (0..levels.len().min(wanted.len())).take_while(agrees).count();
    let prefix = |n: usize| levels[..n].join("\0");
    let joined =
        |n: usize, level: &str| if n == 0 { level.into() } else { prefix(n) + "\0" + level };
    if agree == levels.len() {
        // The topic is too short: go on below it.
        let literal = wanted.get(agree).filter(|l| !matches!(**l, "+" | "#")).copied();
        return Some(joined(agree, literal.unwrap_or("")));
    }
    if agree < wanted.len()
        && wanted[agree] != "+"
        && wanted[agree] != "#"
        && levels[agree] < wanted[agree]
    {
        return Some(joined(agree, wanted[agree]));
    }
    // Everything with these levels is too long or too high: go on behind the last one that may change.
    let last = wanted[..agree.min(wanted.len())].iter().rposition(|l| *l == "+");
    let at = if hidden { Some(0) } else { last };
    at.map(|at| prefix(at + 1) + "\u{1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retained(position: u64) -> Retained {
        Retained { position, qos: 1, expiry_ms: None, size: 3 }
    }

    #[test]
    fn pages_hold_what_matches_whatever_the_filter() {
        let words = ["", "a", "a-", "b", "$s", "a\u{1}"];
        let mut store = RetainedStore::default();
        let mut all = std::collections::BTreeMap::new();
        let mut n = 0;
        for x in words {
            for y in words {
                for topic in [x.to_string(), format!("{x}/{y}"), format!("{x}/{y}/{x}")] {
                    if topic.is_empty() {
                        continue;
                    }
                    n += 1;
                    store.insert(key("/", &topic), retained(n));
                    store.insert(key("//", &topic), retained(0));
                    all.insert(key("/", &topic), (topic, n));
                }
            }
        }
        let filters = [
            "#", "+", "a/#", "+/a", "+/+/b", "a/+/a", "b", "a-/#", "+/b/#", "$s/#", "$s/+", "x/#",
            "/+", "a/b/a", "+/a-/+", "/", "//#",
        ];
        for filter in filters {
            let want: Vec<_> = all.values().filter(|(t, _)| filter_matches(filter, t)).collect();
            for max in [1, 2, 7, 1_000] {
                let (mut got, mut after) = (Vec::new(), String::new());
                for page in 0.. {
                    assert!(page < 200, "{filter} by {max} does not end");
                    let page = store.page(("/", filter), &after, max, 0);
                    assert!(page.entries.len() <= max);
                    got.extend(page.entries);
                    match page.next {
                        Some(next) => after = next,
                        None => break,
                    }
                }
                let got: Vec<_> = got.into_iter().map(|(t, r)| (t, r.position)).collect();
                assert_eq!(got.iter().collect::<Vec<_>>(), want, "{filter} by {max}");
            }
        }
    }

    #[test]
    fn a_wildcard_looks_at_a_bounded_number_of_topics() {
        let mut store = RetainedStore::default();
        for n in 0..30_000u64 {
            store.insert(key("/", &format!("{n:05}/status")), retained(n));
        }
        assert_eq!(store.len(), 30_000);
        let page = store.page(("/", "+/other"), "", 10, 0);
        assert_eq!(page.entries.len(), 0);
        let (mut after, mut pages) = (page.next, 1);
        while let Some(next) = after {
            after = store.page(("/", "+/other"), &next, 10, 0).next;
            pages += 1;
        }
        assert!((3..=8).contains(&pages), "{pages}");
        let bytes = crate::pages::whole(|pages| store.save(pages));
        let copy = store.clone();
        for n in 0..30_000u64 {
            assert!(store.remove(&key("/", &format!("{n:05}/status"))).is_some());
        }
        assert_eq!((store.len(), store.chunks.len(), copy.len()), (0, 0, 30_000));
        assert_eq!((store.bytes(), copy.bytes()), (0, 90_000));
        let loaded = RetainedStore::load(&mut Reader(&bytes), 5).expect("saved above");
        assert_eq!(loaded.bytes(), 90_000);
        assert!(loaded.iter().eq(copy.iter()));
        assert_eq!(loaded.get(&key("/", "00007/status")), Some(retained(7)));
    }
}
