//! Names of the files in a directory of checkpoints.

/// The file that is always the newest checkpoint, for people and for `torch.load`.
pub(crate) const LATEST: &str = "latest.pt";

const PREFIX: &str = "checkpoint_iter_";
const SUFFIX: &str = ".pt";
const PIN: &str = ".pinned";

/// The name of the checkpoint of an iteration.
pub(crate) fn checkpoint(iteration: u64) -> String {
    format!("{PREFIX}{iteration}{SUFFIX}")
}

/// The iteration in a checkpoint's name; `None` for any other name.
///
/// Only the name that [`checkpoint`] gives counts, so that an iteration has one name.
pub(crate) fn iteration(name: &str) -> Option<u64> {
    let iteration = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
    (checkpoint(iteration) == name).then_some(iteration)
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
    fn only_the_exact_name_is_a_checkpoint() {
        assert_eq!(iteration("checkpoint_iter_100.pt"), Some(100));
        for other in [
            "checkpoint_iter_0100.pt",
            "checkpoint_iter_+1.pt",
            "checkpoint_iter_.pt",
            "checkpoint_iter_1.pt.tmp",
            "checkpoint_iter_99999999999999999999.pt",
            "latest.pt",
        ] {
            assert_eq!(iteration(other), None, "{other}");
        }
    }
}
