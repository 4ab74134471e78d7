//! Going on from the newest checkpoint that is sound.

use super::checkpoint::Checkpoint;
use super::{CheckpointManager, Residency, Shared, held, name};
use crate::commit;
use crate::error::{Error, Result};

/// A checkpoint to go on from, and the story of how it was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// The state, in memory; every byte was checked.
    pub checkpoint: Checkpoint,
    /// The file's name.
    pub name: String,
    /// The newer ones that could not be used, newest first.
    pub skipped: Vec<Skipped>,
    /// Iterations between the newest checkpoint there was and this one.
    pub iterations_lost: u64,
}

/// A checkpoint that could not be resumed from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The file's name.
    pub name: String,
    /// Why.
    pub reason: Error,
    /// What it is called now, where it was damaged and could be set aside. The reason stands in a
    /// text file beside it.
    pub set_aside: Option<String>,
}

impl CheckpointManager {
    /// Loads the newest checkpoint that is sound.
    ///
    /// The newest is tried first. One that is damaged is set aside: renamed to
    /// `….pt.damaged`, with the reason in a text file beside it, and never deleted. Where
    /// something else is the matter (it cannot be read right now, holds something unknown) it is
    /// skipped and left alone. `latest.pt` is moved to what was found. `None` in a directory
    /// without checkpoints.
    ///
    /// # Errors
    /// [`Error::NothingToResume`] where there are checkpoints and none is sound; it lists why.
    pub fn resume(&self) -> Result<Option<Resumed>> {
        self.flush()?;
        let shared = &self.shared;
        let mut iterations: Vec<u64> =
            shared.entries()?.iter().filter_map(|entry| name::iteration(&entry.name)).collect();
        iterations.sort_unstable();
        let Some(&newest) = iterations.last() else { return Ok(None) };
        let mut skipped = Vec::new();
        for iteration in iterations.into_iter().rev() {
            let name = name::checkpoint(iteration);
            match shared.load(&name, Residency::Memory) {
                Ok(checkpoint) => {
                    let set_aside = skipped.iter().any(|s: &Skipped| s.set_aside.is_some());
                    if set_aside {
                        // A hint only: a resume does not fail for it.
                        let _ = commit::point(&*shared.store, name::LATEST, &name);
                        let _ = shared.drop_stale_pins();
                    }
                    return Ok(Some(Resumed {
                        iterations_lost: newest.saturating_sub(iteration),
                        checkpoint,
                        name,
                        skipped,
                    }));
                }
                Err(reason) => {
                    let set_aside = shared.set_aside(&name, &reason);
                    skipped.push(Skipped { name, reason, set_aside });
                }
            }
        }
        let skipped = skipped.into_iter().map(|s| (s.name, s.reason.to_string())).collect();
        Err(Error::NothingToResume { path: self.directory(), skipped })
    }
}

impl Shared {
    /// Renames a damaged checkpoint; `None` where it is not damaged or cannot be renamed now.
    fn set_aside(&self, name: &str, reason: &Error) -> Option<String> {
        if !matches!(reason, Error::Damaged { .. }) {
            return None;
        }
        let _operation = self.writing.begin(&*self.store).ok()?;
        held(&self.verified).remove(name);
        commit::set_aside(&*self.store, name, &format!("{reason}\n")).ok()
    }
}
