//! The filters with wildcards, one node a level.

use std::collections::HashMap;

use crate::route_table::Leaf;

#[derive(Default)]
struct Node {
    /// Children by literal level; `+` and `#` stand apart because every look-up visits them.
    children: HashMap<Box<str>, Node>,
    plus: Option<Box<Node>>,
    /// What is subscribed with the filter that ends in `#` below this node.
    hash: Option<Box<Leaf>>,
    /// What is subscribed with the filter that ends at this node.
    here: Option<Box<Leaf>>,
}

/// A trie over the levels of filters with wildcards.
#[derive(Default)]
pub(crate) struct FilterTrie {
    root: Node,
}

// === impl FilterTrie ===

impl FilterTrie {
    /// The leaf of `filter`, made when it is missing.
    pub(crate) fn entry(&mut self, filter: &str) -> &mut Leaf {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            match level {
                "#" => return node.hash.get_or_insert_default(),
                "+" => node = node.plus.get_or_insert_default(),
                level => node = node.children.entry(level.into()).or_default(),
            }
        }
        node.here.get_or_insert_default()
    }

    /// The leaf of exactly `filter`.
    pub(crate) fn get(&self, filter: &str) -> Option<&Leaf> {
        let mut node = &self.root;
        for level in filter.split('/') {
            match level {
                "#" => return node.hash.as_deref(),
                "+" => node = node.plus.as_deref()?,
                level => node = node.children.get(level)?,
            }
        }
        node.here.as_deref()
    }

    /// Changes the leaf of `filter`; prunes what became empty, so that nothing grows.
    pub(crate) fn change<R: Default>(
        &mut self,
        filter: &str,
        change: impl FnOnce(&mut Leaf) -> R,
        is_empty: fn(&Leaf) -> bool,
    ) -> R {
        let mut change = Some(change);
        let mut result = R::default();
        self.root.change(filter.split('/'), &mut |slot: &mut Option<Box<Leaf>>| {
            if let (Some(leaf), Some(change)) = (slot.as_deref_mut(), change.take()) {
                result = change(leaf);
                if is_empty(leaf) {
                    *slot = None;
                }
            }
        });
        result
    }

    /// Calls `visit` with every filter and its leaf.
    pub(crate) fn for_each(&self, visit: &mut impl FnMut(String, &Leaf)) {
        self.root.for_each(&mut Vec::new(), visit);
    }

    /// Keeps the leaves for which `keep` is true.
    pub(crate) fn retain(&mut self, keep: &impl Fn(&mut Leaf) -> bool) {
        self.root.retain(keep);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Calls `visit` with the leaf of every filter that matches `topic`.
    pub(crate) fn for_each_match(&self, topic: &str, visit: &mut impl FnMut(&Leaf)) {
        self.root.walk(Some(topic), topic.starts_with('$'), visit);
    }
}

// === impl Node ===

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.plus.is_none()
            && self.hash.is_none()
            && self.here.is_none()
    }

    fn for_each<'a>(&'a self, levels: &mut Vec<&'a str>, visit: &mut impl FnMut(String, &Leaf)) {
        let mut at =
            |levels: &mut Vec<&'a str>, last: Option<&'a str>, leaf: &Option<Box<Leaf>>| {
                if let Some(leaf) = leaf {
                    levels.extend(last);
                    visit(levels.join("/"), leaf);
                    levels.truncate(levels.len() - usize::from(last.is_some()));
                }
            };
        at(levels, None, &self.here);
        at(levels, Some("#"), &self.hash);
        let plus = self.plus.as_deref().map(|node| ("+", node));
        for (level, node) in self.children.iter().map(|(l, n)| (&**l, n)).chain(plus) {
            levels.push(level);
            node.for_each(levels, visit);
            levels.pop();
        }
    }

    fn retain(&mut self, keep: &impl Fn(&mut Leaf) -> bool) {
        self.here.take_if(|leaf| !keep(leaf));
        self.hash.take_if(|leaf| !keep(leaf));
        self.plus.take_if(|node| {
            node.retain(keep);
            node.is_empty()
        });
        self.children.retain(|_, node| {
            node.retain(keep);
            !node.is_empty()
        });
    }

    fn change<'a>(
        &mut self,
        mut levels: impl Iterator<Item = &'a str> + Clone,
        at_leaf: &mut impl FnMut(&mut Option<Box<Leaf>>),
    ) {
        match levels.next() {
            None => at_leaf(&mut self.here),
            Some("#") => at_leaf(&mut self.hash),
            Some("+") => {
                if let Some(plus) = &mut self.plus {
                    plus.change(levels, at_leaf);
                    if plus.is_empty() {
                        self.plus = None;
                    }
                }
            }
            Some(level) => {
                if let Some(child) = self.children.get_mut(level) {
                    child.change(levels, at_leaf);
                    if child.is_empty() {
                        self.children.remove(level);
                    }
                }
            }
        }
    }

    /// `rest` is what is left of the topic, None behind its last level. Depth is bounded by the
    /// filters' depth, which the edge limits.
    fn walk(&self, rest: Option<&str>, system: bool, visit: &mut impl FnMut(&Leaf)) {
        if let (Some(leaf), false) = (&self.hash, system) {
            visit(leaf);
        }
        let Some(rest) = rest else {
            if let Some(leaf) = &self.here {
                visit(leaf);
            }
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if let (Some(plus), false) = (&self.plus, system) {
            plus.walk(rest, false, visit);
        }
        if !self.children.is_empty()
            && let Some(child) = self.children.get(level)
        {
            child.walk(rest, false, visit);
        }
    }
}
