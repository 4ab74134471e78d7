//! Names of the files in a directory of checkpoints, and of the directories of shards in it.

use crate::store::{Entry, EntryKind};

/// The file that is always the newest checkpoint, for people and for `torch.load`.
pub(crate) const LATEST: &str = "latest.pt";

/// The prefix of every checkpoint's name, also of one that was set aside.
pub(super) const PREFIX: &str = "checkpoint_iter_";
const SUFFIX: &str = ".pt";
const PIN: &str = ".pinned";

/// The name of the checkpoint of an iteration.
pub(crate) fn checkpoint(iteration: u64) -> String {
    format!("{PREFIX}{iteration}{SUFFIX}")
}

/// The name of the checkpoint of an iteration that is a directory of shards.
pub(crate) fn group(iteration: u64) -> String {
    format!("{PREFIX}{iteration}")
}

/// Whether a checkpoint's name is that of a directory of shards.
pub(crate) fn is_group(name: &str) -> bool {
    iteration(name).is_some() && !name.ends_with(SUFFIX)
}

/// The iteration in a checkpoint's name; `None` for any other name.
///
/// Other programs pad the number with zeros; such a name counts too.
pub(crate) fn iteration(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let digits = digits.strip_suffix(SUFFIX).unwrap_or(digits);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// A checkpoint of a directory by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) iteration: u64,
    pub(super) name: String,
}

/// The checkpoints among these entries, by iteration. If several have one iteration, the one with the
/// name that a save gives comes last, as the newest.
pub(super) fn checkpoints(entries: &[Entry]) -> Vec<Named> {
    let named = |entry: &Entry| {
        let iteration = iteration(&entry.name)?;
        let is_meant = is_group(&entry.name) == (entry.kind == EntryKind::Group);
        is_meant.then(|| Named { iteration, name: entry.name.clone() })
    };
    let mut found: Vec<Named> = entries.iter().filter_map(named).collect();
    found.sort_by(|a, b| {
        a.iteration.cmp(&b.iteration).then_with(|| b.name.len().cmp(&a.name.len()))
    });
    found
}

/// The empty file beside a checkpoint that keeps it from being pruned.
pub(crate) fn pin(name: &str) -> String {
    format!("{name}{PIN}")
}

/// The checkpoint that a mark keeps.
pub(crate) fn pinned(mark: &str) -> Option<&str> {
    mark.strip_suffix(PIN).filter(|name| iteration(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_number_is_a_checkpoint_also_if_it_is_padded() {
        assert_eq!(iteration("checkpoint_iter_100.pt"), Some(100));
        assert_eq!(iteration("checkpoint_iter_0000100.pt"), Some(100));
        assert_eq!(iteration(&group(100)), Some(100));
        assert!(is_group(&group(100)) && !is_group(&checkpoint(100)) && !is_group("latest"));
        for other in [
            "checkpoint_iter_+1.pt",
            "checkpoint_iter_.pt",
            "checkpoint_iter_1.pt.tmp",
            "checkpoint_iter_99999999999999999999.pt",
            "latest.pt",
        ] {
            assert_eq!(iteration(other), None, "{other}");
        }
    }

    #[test]
    fn of_one_iteration_the_name_that_a_save_gives_is_the_newest() {
        let entry = |name: &str| Entry::file(name, 0);
        let names = ["checkpoint_iter_20.pt", "checkpoint_iter_3.pt", "checkpoint_iter_0020.pt"];
        let found: Vec<String> =
            checkpoints(&names.map(entry)).into_iter().map(|named| named.name).collect();
        assert_eq!(found, [names[1], names[2], names[0]]);
    }

    #[test]
    fn a_file_is_no_directory_of_shards_and_a_directory_is_no_file() {
        let both = |name: &str| [Entry::file(name, 0), Entry::group(name, 0)];
        let found =
            checkpoints(&[both("checkpoint_iter_1"), both("checkpoint_iter_2.pt")].concat());
        assert_eq!(found.len(), 2);
    }
}
