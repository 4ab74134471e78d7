//! Going on from the newest checkpoint that is sound.

use super::checkpoint::Checkpoint;
use super::lock::Operation;
use super::{CheckpointManager, Residency, Shared, name};
use crate::commit;
use crate::error::{Error, Result};

/// A checkpoint to go on from, and the story of how it was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// The state; every byte was checked.
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
    /// Loads the newest checkpoint that is sound into memory.
    ///
    /// The newest is tried first. Once one is found, those that are newer and damaged are set
    /// aside: renamed to `….pt.damaged`, with the reason in a text file beside it, and never
    /// deleted. Where something else is the matter (it cannot be read right now, holds something
    /// unknown) it is skipped and left alone. `latest.pt` is moved to what was found. `None` in a
    /// directory without checkpoints.
    ///
    /// # Errors
    /// [`Error::NothingToResume`] where there are checkpoints and none is sound; it lists why.
    /// Nothing is set aside then, so that the next resume says the same: a directory that held
    /// checkpoints never comes to look like one that never did.
    pub fn resume(&self) -> Result<Option<Resumed>> {
        self.resume_with(Residency::Memory)
    }

    /// As [`CheckpointManager::resume`], with the tensors in memory or left on disk.
    ///
    /// Every byte is checked in either case: [`Residency::Disk`] is as [`Residency::Verified`].
    /// What is left on disk is read through the file that was checked, whatever happens to its
    /// name.
    ///
    /// # Errors
    /// As [`CheckpointManager::resume`].
    pub fn resume_with(&self, residency: Residency) -> Result<Option<Resumed>> {
        self.flush()?;
        let residency = match residency {
            Residency::Memory => Residency::Memory,
            Residency::Verified | Residency::Disk => Residency::Verified,
        };
        let mut search = Search { shared: &self.shared, residency, newest: 0, skipped: Vec::new() };
        for _ in 0..ATTEMPTS {
            let found = search.look()?;
            if found.is_some() {
                search.set_damaged_aside();
            }
            if !search.skipped.iter().any(is_gone) {
                return search.end(found);
            }
        }
        search.end(None)
    }
}

/// A run that saves and prunes may take away what a resume has just listed; the resume then looks
/// again. That often in a row, something else is wrong.
const ATTEMPTS: usize = 100;

/// A resume that is under way.
struct Search<'a> {
    shared: &'a Shared,
    residency: Residency,
    /// The largest iteration there was.
    newest: u64,
    skipped: Vec<Skipped>,
}

/// Whether the checkpoint was there a moment before.
fn is_gone(skipped: &Skipped) -> bool {
    matches!(skipped.reason, Error::NotFound { .. })
}

impl Search<'_> {
    /// Loads the newest checkpoint that is sound. Stops at one that is gone by now.
    fn look(&mut self) -> Result<Option<(u64, Checkpoint)>> {
        let iterations = self.shared.iterations()?;
        self.newest = self.newest.max(iterations.last().copied().unwrap_or_default());
        // What was not set aside is still there, and met again.
        self.skipped.retain(|skipped| skipped.set_aside.is_some());
        for iteration in iterations.into_iter().rev() {
            let name = name::checkpoint(iteration);
            match self.shared.load(&name, self.residency) {
                Ok(checkpoint) => return Ok(Some((iteration, checkpoint))),
                Err(reason) => self.skipped.push(Skipped { name, reason, set_aside: None }),
            }
            if self.skipped.last().is_some_and(is_gone) {
                break;
            }
        }
        Ok(None)
    }

    /// Sets aside what is damaged, now that there is a sound one to go on from.
    fn set_damaged_aside(&mut self) {
        for skipped in &mut self.skipped {
            if is_damage(&skipped.reason)
                && skipped.set_aside.is_none()
                && let Ok(operation) = self.shared.writing.begin(&*self.shared.store)
            {
                // It was read without the right to write, and may have been replaced since.
                *skipped = self.shared.set_aside(&skipped.name, &operation);
            }
        }
    }

    fn end(self, found: Option<(u64, Checkpoint)>) -> Result<Option<Resumed>> {
        let Self { shared, newest, skipped, .. } = self;
        match found {
            Some((iteration, checkpoint)) => {
                let name = name::checkpoint(iteration);
                let set_aside = skipped.iter().any(|skipped| skipped.set_aside.is_some());
                if set_aside && let Ok(_operation) = shared.writing.begin(&*shared.store) {
                    // A hint only: a resume does not fail for it.
                    let _ = commit::point(&*shared.store, name::LATEST, &name);
                    let _ = shared.drop_stale_pins();
                }
                let iterations_lost = newest.saturating_sub(iteration);
                Ok(Some(Resumed { iterations_lost, checkpoint, name, skipped }))
            }
            None if skipped.is_empty() => Ok(None),
            None => {
                let skipped = skipped.into_iter().map(|s| (s.name, s.reason.to_string()));
                let path = shared.store.describe();
                Err(Error::NothingToResume { path, skipped: skipped.collect() })
            }
        }
    }
}

impl Shared {
    /// Renames a checkpoint where it is damaged. One that is not counts as gone.
    pub(super) fn set_aside(&self, name: &str, _operation: &Operation<'_>) -> Skipped {
        let reason = match self.load(name, Residency::Verified) {
            Ok(_) => Error::NotFound { path: self.path(name) },
            Err(reason) => reason,
        };
        let mut skipped = Skipped { name: name.to_owned(), reason, set_aside: None };
        if is_damage(&skipped.reason) {
            self.writing.verified().remove(name);
            let reason = format!("{}\n", skipped.reason);
            skipped.set_aside = commit::set_aside(&*self.store, name, &reason).ok();
        }
        skipped
    }
}

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. })
}
