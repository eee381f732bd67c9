//! Which inboxes a topic goes to: a trie over the levels of the filters of one shard.

use std::collections::BTreeMap;

use crate::limits::MATCHES_MAX;

#[derive(Clone, Debug, Default)]
struct Node {
    children: BTreeMap<Box<str>, Node>,
    /// What the filter that ends here leads to.
    here: Vec<u64>,
    /// What the filter that ends with `#` below leads to.
    rest: Vec<u64>,
}

/// Filters by vhost and the inboxes or queues they lead to. Derived: not part of a snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct FilterIndex {
    vhosts: BTreeMap<Box<str>, Node>,
}

// === impl FilterIndex ===

impl FilterIndex {
    /// The first that a filter leads to.
    pub(crate) fn get(&self, vhost: &str, filter: &str) -> Option<u64> {
        self.all(vhost, filter).first().copied()
    }

    /// All that a filter leads to.
    pub(crate) fn all(&self, vhost: &str, filter: &str) -> &[u64] {
        let Some(mut node) = self.vhosts.get(vhost) else { return &[] };
        for level in filter.split('/') {
            if level == "#" {
                return &node.rest;
            }
            match node.children.get(level) {
                Some(child) => node = child,
                None => return &[],
            }
        }
        &node.here
    }

    pub(crate) fn insert(&mut self, vhost: &str, filter: &str, inbox: u64) {
        let mut node = self.vhosts.entry(vhost.into()).or_default();
        for level in filter.split('/') {
            if level == "#" {
                node.rest.push(inbox);
                return;
            }
            node = node.children.entry(level.into()).or_default();
        }
        node.here.push(inbox);
    }

    /// Removes a filter and the nodes that nothing else needs.
    pub(crate) fn remove(&mut self, vhost: &str, filter: &str, id: u64) {
        if let Some(node) = self.vhosts.get_mut(vhost) {
            remove(node, filter.split('/'), id);
            if node.is_empty() {
                self.vhosts.remove(vhost);
            }
        }
    }

    /// What the filters that match lead to, ascending; false when it would have to look at more than
    /// [`MATCHES_MAX`] nodes and inboxes. What two filters lead to stands there twice.
    pub(crate) fn matching(&self, vhost: &str, topic: &str, found: &mut Vec<u64>) -> bool {
        found.clear();
        let mut left = MATCHES_MAX;
        if let Some(node) = self.vhosts.get(vhost) {
            walk(node, Some(topic), topic.starts_with('$'), found, &mut left);
            found.sort_unstable();
        }
        left > 0
    }
}

// === impl Node ===

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.rest.is_empty()
    }
}

fn remove<'a>(node: &mut Node, mut levels: impl Iterator<Item = &'a str>, id: u64) {
    match levels.next() {
        None => node.here.retain(|n| *n != id),
        Some("#") => node.rest.retain(|n| *n != id),
        Some(level) => {
            if let Some(child) = node.children.get_mut(level) {
                remove(child, levels, id);
                if child.is_empty() {
                    node.children.remove(level);
                }
            }
        }
    }
}

fn extend(found: &mut Vec<u64>, more: &[u64], left: &mut usize) {
    *left = left.saturating_sub(more.len());
    found.extend(more);
}

/// `rest` is what is left of the topic, None behind its last level.
fn walk(node: &Node, rest: Option<&str>, system: bool, found: &mut Vec<u64>, left: &mut usize) {
    *left = left.saturating_sub(1);
    if *left == 0 {
        return;
    }
    if !system {
        extend(found, &node.rest, left);
    }
    let Some(rest) = rest else {
        extend(found, &node.here, left);
        return;
    };
    let (level, rest) = rest.split_once('/').map_or((rest, None), |(l, r)| (l, Some(r)));
    if let (Some(child), false) = (node.children.get("+"), system) {
        walk(child, rest, false, found, left);
    }
    // Topics hold no wildcards, but a level that reads "+" must not find the child of the wildcard.
    if level != "+"
        && let Some(child) = node.children.get(level)
    {
        walk(child, rest, false, found, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_matches_as_the_rules_say() {
        let filters = ["a", "a/#", "a/+", "+", "#", "+/b", "$SYS/#", "a/+/c", "/", "+/+/#", "a//c"];
        let mut index = FilterIndex::default();
        for (n, filter) in filters.iter().enumerate() {
            index.insert("/", filter, n as u64);
        }
        let mut found = Vec::new();
        for topic in ["a", "a/b", "a/b/c", "/", "$SYS/x", "$SYS", "b", "a//c", "x/b"] {
            assert!(index.matching("/", topic, &mut found));
            let want: Vec<_> = (0..filters.len())
                .filter(|n| fluxmq_names::filter_matches(filters[*n], topic))
                .map(|n| n as u64)
                .collect();
            assert_eq!(found, want, "{topic}");
            assert!(index.matching("other", topic, &mut found));
            assert!(found.is_empty());
        }
        for (n, filter) in filters.iter().enumerate() {
            assert_eq!(index.get("/", filter), Some(n as u64));
            index.remove("/", filter, n as u64);
            assert_eq!(index.get("/", filter), None);
        }
        assert!(index.vhosts.is_empty());
    }
}
