//! An ordered multiset of byte strings with rank selection: a treap in one vector.
//!
//! Adding, removing, ranking and selecting take logarithmic time. Priorities are a hash of the key, so the shape depends
//! on the content alone, not on its history.
//!
//! Always true here: no key has count zero. Counts may be negative in the middle of a version, when a retraction comes
//! before what it retracts; ranks are asked for only at its end, when none is.

use std::cmp::Ordering;

use super::STATE_HASHER;

const NIL: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
pub(super) struct OrderedMultiset {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Index plus one, so that the default is the empty tree.
    root: Option<u32>,
    key_bytes: usize,
}

#[derive(Clone, Debug)]
struct Node {
    key: Box<[u8]>,
    count: i64,
    /// Counts of the whole subtree.
    total: i64,
    left: u32,
    right: u32,
    priority: u32,
}

impl OrderedMultiset {
    fn root(&self) -> u32 {
        self.root.unwrap_or(NIL)
    }

    /// Sum of all counts.
    pub(super) fn total(&self) -> i64 {
        self.total_of(self.root())
    }

    /// Distinct keys.
    pub(super) fn distinct(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Heap bytes held, keys included.
    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.key_bytes
    }

    /// Adds to the count of a key.
    pub(super) fn adjust(&mut self, key: &[u8], weight: i64) {
        if weight != 0 {
            let root = self.adjust_at(self.root(), key, weight);
            self.root = (root != NIL).then_some(root);
            if self.root.is_none() {
                self.nodes.clear();
                self.free.clear();
            }
        }
    }

    /// The count of a key.
    pub(super) fn count(&self, key: &[u8]) -> i64 {
        let mut at = self.root();
        while at != NIL {
            let node = &self.nodes[at as usize];
            at = match key.cmp(&node.key) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return node.count,
            };
        }
        0
    }

    /// How many are smaller than the key.
    pub(super) fn rank(&self, key: &[u8]) -> i64 {
        let (mut at, mut rank) = (self.root(), 0);
        while at != NIL {
            let node = &self.nodes[at as usize];
            if key <= &*node.key {
                at = node.left;
            } else {
                rank += self.total_of(node.left) + node.count;
                at = node.right;
            }
        }
        rank
    }

    /// The key at a rank, counted from zero.
    pub(super) fn select(&self, mut rank: i64) -> Option<&[u8]> {
        let mut at = self.root();
        while at != NIL {
            let node = &self.nodes[at as usize];
            let before = self.total_of(node.left);
            if rank < before {
                at = node.left;
            } else if rank < before + node.count {
                return Some(&node.key);
            } else {
                rank -= before + node.count;
                at = node.right;
            }
        }
        None
    }

    /// Visits what lies at the ranks from..until: keys, in order, with how many of them lie there.
    pub(super) fn visit_ranks<'a>(&'a self, from: i64, until: i64, visit: &mut dyn FnMut(&'a [u8], i64)) {
        self.visit_at(self.root(), 0, from, until, visit);
    }

    /// All keys with their counts, in order.
    pub(super) fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8], i64)) {
        self.for_each_at(self.root(), visit);
    }

    fn total_of(&self, node: u32) -> i64 {
        if node == NIL { 0 } else { self.nodes[node as usize].total }
    }

    fn for_each_at<'a>(&'a self, at: u32, visit: &mut dyn FnMut(&'a [u8], i64)) {
        if at != NIL {
            let node = &self.nodes[at as usize];
            self.for_each_at(node.left, visit);
            visit(&node.key, node.count);
            self.for_each_at(node.right, visit);
        }
    }

    fn visit_at<'a>(&'a self, at: u32, start: i64, from: i64, until: i64, visit: &mut dyn FnMut(&'a [u8], i64)) {
        if at == NIL || start >= until || start + self.total_of(at) <= from {
            return;
        }
        let node = &self.nodes[at as usize];
        self.visit_at(node.left, start, from, until, visit);
        let own = start + self.total_of(node.left);
        let end = own + node.count;
        let inside = end.min(until) - own.max(from);
        if inside > 0 {
            visit(&node.key, inside);
        }
        self.visit_at(node.right, end, from, until, visit);
    }

    fn adjust_at(&mut self, at: u32, key: &[u8], weight: i64) -> u32 {
        if at == NIL {
            return self.allocate(key, weight);
        }
        let node = &mut self.nodes[at as usize];
        match key.cmp(&node.key) {
            Ordering::Equal => {
                node.count += weight;
                node.total += weight;
                if node.count == 0 { self.remove(at) } else { at }
            }
            Ordering::Less => {
                let left = node.left;
                let left = self.adjust_at(left, key, weight);
                self.nodes[at as usize].left = left;
                if left != NIL && self.nodes[left as usize].priority > self.nodes[at as usize].priority {
                    self.nodes[at as usize].left = self.nodes[left as usize].right;
                    self.nodes[left as usize].right = at;
                    self.update(at);
                    self.update(left);
                    return left;
                }
                self.update(at);
                at
            }
            Ordering::Greater => {
                let right = node.right;
                let right = self.adjust_at(right, key, weight);
                self.nodes[at as usize].right = right;
                if right != NIL && self.nodes[right as usize].priority > self.nodes[at as usize].priority {
                    self.nodes[at as usize].right = self.nodes[right as usize].left;
                    self.nodes[right as usize].left = at;
                    self.update(at);
                    self.update(right);
                    return right;
                }
                self.update(at);
                at
            }
        }
    }

    fn allocate(&mut self, key: &[u8], weight: i64) -> u32 {
        self.key_bytes += key.len();
        let priority = STATE_HASHER.hash_one(key) as u32;
        let node = Node { key: key.into(), count: weight, total: weight, left: NIL, right: NIL, priority };
        match self.free.pop() {
            Some(place) => {
                self.nodes[place as usize] = node;
                place
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    fn remove(&mut self, at: u32) -> u32 {
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        let key = std::mem::take(&mut self.nodes[at as usize].key);
        self.key_bytes -= key.len();
        self.free.push(at);
        self.merge(left, right)
    }

    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL {
            return right;
        }
        if right == NIL {
            return left;
        }
        if self.nodes[left as usize].priority > self.nodes[right as usize].priority {
            let inner = self.nodes[left as usize].right;
            self.nodes[left as usize].right = self.merge(inner, right);
            self.update(left);
            left
        } else {
            let inner = self.nodes[right as usize].left;
            self.nodes[right as usize].left = self.merge(left, inner);
            self.update(right);
            right
        }
    }

    fn update(&mut self, at: u32) {
        let (left, right) = (self.nodes[at as usize].left, self.nodes[at as usize].right);
        let total = self.total_of(left) + self.total_of(right);
        let node = &mut self.nodes[at as usize];
        node.total = total + node.count;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn ranks_and_ranges_match_a_sorted_map() {
        let seed = std::env::var("MAINSTEM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
        println!("MAINSTEM_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut set = OrderedMultiset::default();
        let mut model: BTreeMap<[u8; 1], i64> = BTreeMap::new();
        for _ in 0..5_000 {
            let key = [random.random_range(0..60)];
            let count = model.entry(key).or_default();
            let weight =
                if random.random_bool(0.5) { -random.random_range(0..=*count) } else { random.random_range(1..4) };
            *count += weight;
            set.adjust(&key, weight);
            model.retain(|_, count| *count != 0);
            let sorted: Vec<u8> = model.iter().flat_map(|(key, count)| vec![key[0]; *count as usize]).collect();
            assert_eq!(set.total(), sorted.len() as i64);
            assert_eq!(set.distinct(), model.len());
            assert_eq!(set.count(&key), model.get(&key).copied().unwrap_or(0));
            assert_eq!(set.rank(&key), sorted.iter().filter(|other| **other < key[0]).count() as i64);
            let place = random.random_range(0..=sorted.len());
            assert_eq!(set.select(place as i64).map(|key| key[0]), sorted.get(place).copied());
            let until = random.random_range(place..=sorted.len() + 2);
            let mut visited = Vec::new();
            set.visit_ranks(place as i64, until as i64, &mut |key, count| {
                visited.extend(vec![key[0]; count as usize]);
            });
            assert_eq!(visited, sorted[place..until.min(sorted.len()).max(place)]);
        }
    }
}
