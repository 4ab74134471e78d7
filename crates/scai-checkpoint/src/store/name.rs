//! What files may be called.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::process;
use std::time::SystemTime;

use super::Entry;

/// The file that carries the lock of a directory.
pub(crate) const LOCK_NAME: &str = ".scai.lock";

const DRAFT_PREFIX: &str = ".scai-";
const DRAFT_SUFFIX: &str = ".tmp";
const REPLACED: &str = ".was-";

/// What makes several files one: the file that is written last, and binds the others.
pub const COMMIT: &str = "commit.json";
/// What `torch.distributed.checkpoint` has in its place, which binds nothing.
pub const METADATA: &str = ".metadata";

const ATTEMPT_DIGITS: usize = 32;

/// 32 hexadecimal digits that never come twice.
pub fn attempt() -> String {
    format!("{:016x}{:016x}", random(), random())
}

/// The attempt that a name begins with, as [`attempt`] writes it, and what follows.
pub fn attempt_in(name: &str) -> Option<(&str, &str)> {
    let (digits, rest) = name.split_at_checked(ATTEMPT_DIGITS)?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.bytes().all(is_digit).then_some((digits, rest))
}

/// A temporary name that no other file has: `.scai-<32 hex digits>.tmp`.
pub fn draft_name() -> String {
    format!("{DRAFT_PREFIX}{}{DRAFT_SUFFIX}", attempt())
}

/// Whether `name` is a temporary name: the file is not a checkpoint.
pub fn is_draft(name: &str) -> bool {
    name.starts_with(DRAFT_PREFIX) && name.ends_with(DRAFT_SUFFIX)
}

/// A name for what the directory `name` was, while another one takes its place in two steps.
pub(crate) fn replaced_name(name: &str) -> String {
    format!("{DRAFT_PREFIX}{}{REPLACED}{name}", attempt())
}

/// The directory whose place something was in, by the name that [`replaced_name`] gave it.
pub(crate) fn replaced(name: &str) -> Option<&str> {
    let (digits, name) = name.strip_prefix(DRAFT_PREFIX)?.split_once(REPLACED)?;
    attempt_in(digits).filter(|(_, rest)| rest.is_empty()).map(|_| name)
}

/// Accepts what can name a file in a store: one path component, not the store's own lock file.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`], quoting the name.
pub fn check_name(name: &str) -> io::Result<()> {
    let component = !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0']);
    if component && name != LOCK_NAME {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a valid file name")))
}

/// The first of `base`, `base-2`, `base-3` and so on that no entry has.
pub(crate) fn free_name(base: &str, entries: &[Entry]) -> String {
    let mut name = base.to_owned();
    for number in 2_u64.. {
        if !entries.iter().any(|entry| entry.name == name) {
            break;
        }
        name = format!("{base}-{number}");
    }
    name
}

/// Seeded by the operating system through the standard library's hash keys. The process and the
/// time are mixed in because a forked child inherits the keys of its parent.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(process::id());
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    hasher.write_u128(since.map_or(0, |since| since.as_nanos()));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_name_is_a_valid_name_and_never_comes_twice() {
        let names: std::collections::HashSet<String> = (0..10_000).map(|_| draft_name()).collect();
        assert_eq!(names.len(), 10_000);
        for name in names {
            assert!(is_draft(&name));
            check_name(&name).unwrap();
        }
    }

    #[test]
    fn an_attempt_is_found_at_the_beginning_of_a_name() {
        let attempt = attempt();
        let name = format!("{attempt}_0_0.distcp");
        assert_eq!(attempt_in(&name), Some((attempt.as_str(), "_0_0.distcp")));
        assert_eq!(attempt_in(&attempt), Some((attempt.as_str(), "")));
        for name in [
            "",
            "__0_0.distcp",
            &attempt[1..],
            &format!("A{}.pt", &attempt[1..]),
            "é".repeat(20).as_str(),
        ] {
            assert_eq!(attempt_in(name), None, "{name}");
        }
    }

    #[test]
    fn the_name_of_what_was_replaced_is_found_again() {
        assert_eq!(replaced(&replaced_name("checkpoint-12")), Some("checkpoint-12"));
        assert_eq!(replaced(&replaced_name("a.was-b")), Some("a.was-b"));
        for name in ["checkpoint-12", ".scai-1.was-a", &draft_name()] {
            assert_eq!(replaced(name), None);
        }
    }

    #[test]
    fn checkpoints_and_aliases_are_no_drafts() {
        for name in ["checkpoint_iter_3.pt", "latest.pt", ".scai.lock", "scai-3.tmp", ".scai-3"] {
            assert!(!is_draft(name), "{name}");
        }
    }
}
