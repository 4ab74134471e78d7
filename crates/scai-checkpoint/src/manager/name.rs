//! Names of the files in a directory of checkpoints.

use crate::store::Entry;

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

/// The iteration in a checkpoint's name; `None` for any other name.
///
/// Other programs pad the number with zeros; such a name counts too.
pub(crate) fn iteration(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
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

/// The checkpoints among these files, by iteration. If several have one iteration, the one with the
/// name that a save gives comes last, as the newest.
pub(super) fn checkpoints(entries: &[Entry]) -> Vec<Named> {
    let named = |entry: &Entry| {
        Some(Named { iteration: iteration(&entry.name)?, name: entry.name.clone() })
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
        let entry = |name: &str| Entry { name: name.to_owned(), len: 0 };
        let names = ["checkpoint_iter_20.pt", "checkpoint_iter_3.pt", "checkpoint_iter_0020.pt"];
        let found: Vec<String> =
            checkpoints(&names.map(entry)).into_iter().map(|named| named.name).collect();
        assert_eq!(found, [names[1], names[2], names[0]]);
    }
}
