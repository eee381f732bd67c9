//! State in 1,024 buckets behind `Arc`s (S10): a snapshot clones the pointers, and the first write to a
//! bucket after that copies its map, whose values are shared as well.

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const BUCKETS: u64 = 1_024;

/// A map by id whose clone costs 1,024 pointers.
#[derive(Clone, Debug)]
pub(crate) struct Buckets<V> {
    maps: Vec<Arc<BTreeMap<u64, Arc<V>>>>,
    len: usize,
}

impl<V> Default for Buckets<V> {
    fn default() -> Self {
        Self { maps: (0..BUCKETS).map(|_| Arc::default()).collect(), len: 0 }
    }
}

// === impl Buckets ===

impl<V: Clone> Buckets<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, id: u64) -> Option<&V> {
        self.maps[at(id)].get(&id).map(|v| &**v)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut V> {
        let map = &mut self.maps[at(id)];
        if !map.contains_key(&id) {
            return None;
        }
        Arc::make_mut(map).get_mut(&id).map(Arc::make_mut)
    }

    pub(crate) fn insert(&mut self, id: u64, value: V) {
        let old = Arc::make_mut(&mut self.maps[at(id)]).insert(id, Arc::new(value));
        self.len += usize::from(old.is_none());
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Arc<V>> {
        let map = &mut self.maps[at(id)];
        if !map.contains_key(&id) {
            return None;
        }
        self.len -= 1;
        Arc::make_mut(map).remove(&id)
    }

    /// All of one bucket.
    pub(crate) fn bucket(&self, n: usize) -> impl Iterator<Item = (u64, &V)> {
        self.maps.get(n).into_iter().flat_map(|m| m.iter().map(|(id, v)| (*id, &**v)))
    }

    /// All, bucket by bucket; the order depends on the ids alone.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.maps.iter().flat_map(|m| m.iter().map(|(id, v)| (*id, &**v)))
    }
}

/// Ids are positions: neighbours differ in slot or index. A multiplication spreads both.
fn at(id: u64) -> usize {
    (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut buckets = Buckets::default();
        (0..5_000u64).for_each(|id| buckets.insert(id << 20, id));
        let before = buckets.clone();
        *buckets.get_mut(7 << 20).expect("inserted") = 99;
        assert!(buckets.remove(8 << 20).is_some() && buckets.remove(8 << 20).is_none());
        assert_eq!((before.get(7 << 20), before.get(8 << 20)), (Some(&7), Some(&8)));
        assert_eq!((buckets.get(7 << 20), buckets.get(8 << 20)), (Some(&99), None));
        assert_eq!((before.len(), buckets.len(), before.iter().count()), (5_000, 4_999, 5_000));
    }
}
