//! Which changes of the names in a directory a crash may keep.

use std::collections::BTreeMap;

use super::content::Random;
use super::{FileId, Node};

/// All subsets of up to this many pending changes are tried: at most 4096.
const EXHAUSTIVE: usize = 12;
/// Subsets drawn at random if there are more.
const DRAWN: usize = 2048;
/// A set of changes is a bit mask; were more pending, the oldest would count as kept.
const MOST: usize = 64;

/// One atomic change: names that are set to a file, to a child or to nothing.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    pub(super) changes: Vec<(String, Option<Node>)>,
    /// The file that has no name left after this.
    pub(super) frees: Option<FileId>,
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, Node>) {
        for (name, node) in &self.changes {
            match node {
                Some(node) => names.insert(name.clone(), *node),
                None => names.remove(name),
            };
        }
    }

    fn shares_a_name_with(&self, other: &Self) -> bool {
        self.changes.iter().any(|(name, _)| other.changes.iter().any(|(other, _)| name == other))
    }
}

/// The names of one directory on the device, and the changes on their way there.
#[derive(Debug, Default)]
pub(super) struct Names {
    durable: BTreeMap<String, Node>,
    pending: Vec<NameChange>,
}

/// One way the names of a directory may come back.
#[derive(Clone)]
pub(super) struct NamesLeft {
    pub(super) names: BTreeMap<String, Node>,
    /// The pending changes that were lost.
    pub(super) lost: Vec<NameChange>,
}

impl Names {
    pub(super) fn change(&mut self, change: NameChange) {
        self.pending.push(change);
        if self.pending.len() > MOST {
            self.pending.remove(0).apply(&mut self.durable);
        }
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// What a crash now may leave; the first has lost everything, the last nothing.
    pub(super) fn left(&self, random: &mut Random) -> Vec<NamesLeft> {
        let count = self.pending.len();
        let all = if count == MOST { u64::MAX } else { (1 << count) - 1 };
        let needs: Vec<u64> = (0..count).map(|at| self.needs(at)).collect();
        let ordered =
            |kept: &u64| (0..count).all(|at| kept >> at & 1 == 0 || needs[at] & !kept == 0);
        let mut kept: Vec<u64> = if count <= EXHAUSTIVE {
            (0..=all).filter(ordered).collect()
        } else {
            let prefixes = (0..count).map(|len| (1 << len) - 1);
            let one_lost = (0..count).map(|at| all & !(1 << at));
            let drawn = (0..DRAWN).map(|_| random.next() & all);
            prefixes.chain(one_lost).chain(drawn).map(|kept| close(kept, &needs)).collect()
        };
        kept.push(all);
        kept.dedup();
        kept.into_iter().map(|kept| self.keep(kept)).collect()
    }

    /// The earlier changes of the same names, without which the change `at` cannot be kept.
    fn needs(&self, at: usize) -> u64 {
        let earlier = self.pending[..at].iter().enumerate();
        earlier
            .filter(|(_, earlier)| earlier.shares_a_name_with(&self.pending[at]))
            .fold(0, |needs, (at, _)| needs | 1 << at)
    }

    fn keep(&self, kept: u64) -> NamesLeft {
        let mut left = NamesLeft { names: self.durable.clone(), lost: Vec::new() };
        for (at, change) in self.pending.iter().enumerate() {
            if kept >> at & 1 == 1 {
                change.apply(&mut left.names);
            } else {
                left.lost.push(change.clone());
            }
        }
        left
    }
}

/// Drops the changes that depend on a lost one.
fn close(mut kept: u64, needs: &[u64]) -> u64 {
    for (at, needs) in needs.iter().enumerate() {
        if needs & !kept != 0 {
            kept &= !(1 << at);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(changes: &[(&str, Option<FileId>)]) -> NameChange {
        let node = |file: &Option<FileId>| file.map(Node::File);
        let changes = changes.iter().map(|(name, file)| ((*name).into(), node(file))).collect();
        NameChange { changes, frees: None }
    }

    #[test]
    fn changes_of_one_name_keep_their_order_and_others_are_free() {
        let mut names = Names::default();
        names.change(change(&[("tmp", Some(0))]));
        names.change(change(&[("tmp", None), ("a", Some(0))]));
        names.change(change(&[("b", Some(1))]));
        let left = names.left(&mut Random::new(1));
        let left: Vec<String> = left.iter().map(|left| format!("{:?}", left.names)).collect();
        let expected = [
            "{}",
            r#"{"tmp": File(0)}"#,
            r#"{"a": File(0)}"#,
            r#"{"b": File(1)}"#,
            r#"{"b": File(1), "tmp": File(0)}"#,
            r#"{"a": File(0), "b": File(1)}"#,
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn many_pending_changes_are_sampled_with_the_extremes() {
        let mut names = Names::default();
        for file in 0..40 {
            names.change(change(&[(&format!("{file}"), Some(file))]));
        }
        let left = names.left(&mut Random::new(1));
        assert_eq!(left.first().unwrap().names.len(), 0);
        assert_eq!(left.last().unwrap().names.len(), 40);
        assert!(left.iter().any(|left| left.names.len() == 39 && !left.names.contains_key("3")));
    }
}
