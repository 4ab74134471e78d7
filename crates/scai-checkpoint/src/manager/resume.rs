//! Continuing from the newest checkpoint that is sound, or from an older one on request.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use super::list::{manifest, other_iteration};
use super::lock::Operation;
use super::name::{self, Named};
use super::{CheckpointManager, Loaded, Residency, Shared};
use crate::checkpoint::Checkpoint;
use crate::codec::CheckpointFile;
use crate::error::{Error, Place, Result};
use crate::store::Entry;

/// Options of a resume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resume {
    /// Where the tensors of the checkpoint are. Every byte is checked in any case.
    pub residency: Residency,
    /// The iteration to go back to; `None` takes the newest.
    pub at: Option<u64>,
    /// What happens to a sound checkpoint that cannot be read.
    pub unreadable: Unreadable,
}

/// What a resume does about a checkpoint that is not damaged but cannot be read: it needs code, is of
/// a newer version, has no checksums, holds another iteration than its name says, or the disk returns
/// an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unreadable {
    /// The resume fails with the reason: continuing from an older one would lose a sound state.
    #[default]
    Fail,
    /// It is skipped and reported in [`Resumed::skipped`].
    Skip,
}

impl Resume {
    /// In memory, or left on disk.
    #[must_use]
    pub fn residency(mut self, residency: Residency) -> Self {
        self.residency = residency;
        self
    }

    /// Goes back to this iteration: see [`CheckpointManager::rollback`].
    #[must_use]
    pub fn at(mut self, iteration: u64) -> Self {
        self.at = Some(iteration);
        self
    }

    /// What happens to a sound checkpoint that cannot be read.
    #[must_use]
    pub fn unreadable(mut self, unreadable: Unreadable) -> Self {
        self.unreadable = unreadable;
        self
    }
}

impl From<Residency> for Resume {
    fn from(residency: Residency) -> Self {
        Self::default().residency(residency)
    }
}

/// A checkpoint to continue from, and how it was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// The state; every byte was checked.
    pub checkpoint: Checkpoint,
    /// The open file that was checked, whatever happens to its name.
    pub file: CheckpointFile,
    /// The file's name.
    pub name: String,
    /// The newer ones that could not be used, newest first.
    pub skipped: Vec<Skipped>,
    /// Iterations between the newest checkpoint and this one.
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
    /// Its new name, if it was damaged and could be set aside. The reason is in a text file beside it.
    pub set_aside: Option<String>,
}

impl CheckpointManager {
    /// Loads the newest checkpoint that is sound into memory.
    ///
    /// The newest is tried first. Once one is found, those that are newer and damaged are set
    /// aside: renamed to `….pt.damaged`, with the reason in a text file beside it, and never
    /// deleted; then `latest.pt` is moved to what was found. If something else is wrong with a newer
    /// one, the resume fails and changes nothing. Superseded ones are not tried. If `latest.pt` is
    /// the only one, it is used. Returns `None` if the directory has no checkpoints.
    ///
    /// # Errors
    /// [`Error::NothingToResume`] if there are checkpoints but none is sound, or files that are
    /// checkpoints under other names; it lists why. Nothing is set aside then, so that the next
    /// resume says the same: a directory that held checkpoints never looks as if it had not.
    ///
    /// Those of a load, if the newest is not damaged but cannot be read; see [`Unreadable`]. Failed
    /// reads are tried again first.
    pub fn resume(&self) -> Result<Option<Resumed>> {
        self.resume_with(Resume::default())
    }

    /// As [`CheckpointManager::resume`], with options: tensors in memory or on disk, the iteration
    /// to go back to, skipping what cannot be read.
    ///
    /// Every byte is checked in any case: [`Residency::Disk`] acts as [`Residency::Verified`]. What
    /// is left on disk is read through the file that was checked, whatever happens to its name.
    ///
    /// # Errors
    /// As [`CheckpointManager::resume`]. With [`Resume::at`], also those of a load and of
    /// [`CheckpointManager::rollback`].
    pub fn resume_with(&self, how: impl Into<Resume>) -> Result<Option<Resumed>> {
        self.flush()?;
        let how = how.into();
        let residency = match how.residency {
            Residency::Memory => Residency::Memory,
            Residency::Verified | Residency::Disk => Residency::Verified,
        };
        // Another process that writes here sweeps itself.
        let _ = self.shared.store.sweep_unless_leased();
        if let Some(iteration) = how.at {
            let name = self.shared.named(iteration)?.name;
            let loaded = self.shared.load_patiently(&name, Some(iteration), residency)?;
            self.rollback(iteration)?;
            let Loaded { checkpoint, file, .. } = loaded;
            let (skipped, iterations_lost) = (Vec::new(), 0);
            return Ok(Some(Resumed { checkpoint, file, name, skipped, iterations_lost }));
        }
        let (unreadable, shared) = (how.unreadable, &*self.shared);
        let mut search =
            Search { shared, residency, unreadable, newest: 0, skipped: Vec::new(), gone: false };
        for _ in 0..ATTEMPTS {
            let found = search.look()?;
            if found.is_some() {
                search.set_damaged_aside();
            }
            if !search.gone {
                return search.end(found);
            }
        }
        search.end(None)
    }

    /// Records that training continues from the checkpoint of `iteration`, which is the newest
    /// until more is saved.
    ///
    /// Those of later iterations are *superseded*: listed as such, never resumed from unless asked
    /// for, not counted by any rule, and deleted only by [`CheckpointManager::prune_superseded`]. A
    /// save of the same iteration replaces them. `latest.pt` is moved. The record is durable when this
    /// returns; to undo it, roll back to a later iteration.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such checkpoint; [`Error::Locked`] if another process writes
    /// to the directory; as a save, if the record cannot be written.
    pub fn rollback(&self, iteration: u64) -> Result<()> {
        self.flush()?;
        let operation = self.shared.writing.begin(&*self.shared.store)?;
        let named = self.shared.named(iteration)?;
        self.shared.supersede_above(iteration, &operation)?;
        // A hint for people only.
        let _ = self.shared.move_latest(&named.name, &operation);
        Ok(())
    }
}

/// A run that saves and prunes may delete what a resume has just listed; the resume then lists
/// again. After this many times, something else is wrong.
const ATTEMPTS: usize = 100;

/// How long a resume waits before it retries a failed read.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// A resume in progress.
struct Search<'a> {
    shared: &'a Shared,
    residency: Residency,
    unreadable: Unreadable,
    /// The largest iteration there was.
    newest: u64,
    skipped: Vec<Skipped>,
    /// Whether a checkpoint that was listed is no longer there.
    gone: bool,
}

impl Search<'_> {
    /// Loads the newest checkpoint that is sound. Stops at one that no longer exists.
    fn look(&mut self) -> Result<Option<(Named, Loaded)>> {
        let entries = self.shared.entries()?;
        let superseded = self.shared.superseded()?;
        let unopenable = self.shared.store.unopenable()?;
        let mut candidates = entries.clone();
        // A directory without a commit is a save that another process has begun, or that ended early.
        let unopenable: Vec<String> =
            unopenable.into_iter().filter(|name| !name::is_group(name)).collect();
        candidates.extend(unopenable.iter().map(|name| Entry::file(name, 0)));
        let mut found = name::checkpoints(&candidates);
        found.retain(|named| !superseded.contains(&named.name));
        self.newest = self.newest.max(found.last().map_or(0, |newest| newest.iteration));
        self.gone = false;
        // What was not set aside is still there, and is found again.
        self.skipped.retain(|skipped| skipped.set_aside.is_some());
        let no_other = found.is_empty();
        for named in found.into_iter().rev() {
            if unopenable.contains(&named.name) {
                self.pass_over(&named.name)?;
                continue;
            }
            if let Some(loaded) = self.attempt(&named.name, Some(named.iteration))? {
                return Ok(Some((named, loaded)));
            }
            if self.gone {
                return Ok(None);
            }
        }
        // A copy of what was set aside is damaged as well, and is reported.
        let has_latest = entries.iter().any(|entry| entry.name == name::LATEST);
        if has_latest
            && (no_other || self.shared.latest_is_of_its_own(&entries))
            && let Some(loaded) = self.attempt(name::LATEST, None)?
        {
            let iteration = loaded.checkpoint.iteration;
            return Ok(Some((Named { iteration, name: name::LATEST.to_owned() }, loaded)));
        }
        self.look_elsewhere(&entries, &superseded);
        Ok(None)
    }

    /// Loads a checkpoint. One that cannot be used is recorded as skipped, or is an error.
    fn attempt(&mut self, name: &str, iteration: Option<u64>) -> Result<Option<Loaded>> {
        let reason = match self.shared.load_patiently(name, iteration, self.residency) {
            Ok(loaded) => return Ok(Some(loaded)),
            Err(reason) => reason,
        };
        self.gone = matches!(reason, Error::NotFound { .. });
        let passes = match reason {
            Error::Damaged { .. } | Error::NotFound { .. } => true,
            // The older ones are not smaller.
            Error::OutOfMemory { .. } => false,
            _ => self.unreadable == Unreadable::Skip,
        };
        if !passes {
            return Err(reason);
        }
        self.skipped.push(Skipped { name: name.to_owned(), reason, set_aside: None });
        Ok(None)
    }

    /// Passes over what is called like a checkpoint and is not a file, if that is asked for.
    fn pass_over(&mut self, name: &str) -> Result<()> {
        let place = Place { path: Some(self.shared.path(name)), ..Place::default() };
        let what = "it cannot be opened as a file: it is a dangling symbolic link, a directory or \
                    a pipe";
        let hint = "if it is on a disk that is not mounted, mount it; otherwise move it away";
        let reason = Error::unsupported(place, what, hint);
        if self.unreadable == Unreadable::Fail {
            return Err(reason);
        }
        self.skipped.push(Skipped { name: name.to_owned(), reason, set_aside: None });
        Ok(())
    }

    /// If no checkpoint can be used: records what else there is that a resume does not use by itself.
    fn look_elsewhere(&mut self, entries: &[Entry], superseded: &BTreeSet<String>) {
        let skip = |name: &str, what: String, hint: &str| Skipped {
            name: name.to_owned(),
            reason: Error::unsupported(Place::default(), what, hint),
            set_aside: None,
        };
        for entry in entries {
            let name = entry.name.as_str();
            if superseded.contains(name) {
                let what = "it was superseded by a rollback".to_owned();
                self.skipped.push(skip(name, what, "resume at its iteration to use it anyway"));
            } else if is_foreign(name)
                && let Ok(manifest) = manifest(&*self.shared.store, name)
                && let Some(inside) = manifest.iteration
            {
                let what = format!("it is a checkpoint of iteration {inside} under another name");
                let own = name::checkpoint(inside.unsigned_abs());
                let hint = format!("rename it to `{own}`, or load it by its path");
                self.skipped.push(skip(name, what, &hint));
            }
        }
    }

    /// Sets aside what is damaged, now that there is a sound one to continue from.
    fn set_damaged_aside(&mut self) {
        for skipped in &mut self.skipped {
            if skipped.reason.is_damage()
                && skipped.set_aside.is_none()
                && let Some(operation) = self.shared.writing.begin_if_free(&*self.shared.store)
            {
                // It was read without the write lease, and may have been replaced since.
                *skipped = self.shared.set_aside(&skipped.name, &operation);
                self.gone |= matches!(skipped.reason, Error::NotFound { .. });
            }
        }
    }

    fn end(self, found: Option<(Named, Loaded)>) -> Result<Option<Resumed>> {
        let Self { shared, newest, skipped, .. } = self;
        match found {
            Some((Named { iteration, name }, Loaded { checkpoint, file, .. })) => {
                let set_aside = skipped.iter().any(|skipped| skipped.set_aside.is_some());
                if set_aside && let Some(operation) = shared.writing.begin_if_free(&*shared.store) {
                    // Only a hint: a resume does not fail because of it.
                    if name != name::LATEST {
                        let _ = shared.move_latest(&name, &operation);
                    }
                    let _ = shared.drop_stale_pins();
                }
                let iterations_lost = newest.saturating_sub(iteration);
                Ok(Some(Resumed { iterations_lost, checkpoint, file, name, skipped }))
            }
            None if skipped.is_empty() => Ok(None),
            None => {
                let skipped = skipped.into_iter().map(|s| (s.name, s.reason.to_string()));
                let path = shared.store.describe().into();
                Err(Error::NothingToResume { path, skipped: skipped.collect() })
            }
        }
    }
}

impl Shared {
    /// Loads a checkpoint. Failed reads are retried after a pause, which often helps on a network.
    fn load_patiently(
        &self,
        name: &str,
        iteration: Option<u64>,
        residency: Residency,
    ) -> Result<Loaded> {
        let mut loaded = self.load(name, residency);
        for pause in PAUSES {
            if !loaded.as_ref().is_err_and(may_pass) {
                break;
            }
            std::thread::sleep(pause);
            loaded = self.load(name, residency);
        }
        let loaded = loaded?;
        match iteration {
            Some(iteration) if loaded.checkpoint.iteration != iteration => {
                let inside = i64::try_from(loaded.checkpoint.iteration).unwrap_or(i64::MAX);
                Err(other_iteration(iteration, inside).at_path(self.path(name)))
            }
            Some(_) => {
                self.writing.seen().read(name, loaded.stamp);
                Ok(loaded)
            }
            // A `latest.pt` that was read is still the only copy.
            None => Ok(loaded),
        }
    }

    /// Renames a checkpoint if it is damaged. If it is not, it counts as gone.
    pub(super) fn set_aside(&self, name: &str, _operation: &Operation<'_>) -> Skipped {
        let reason = match self.load(name, Residency::Verified) {
            Ok(_) => Error::NotFound { path: self.path(name) },
            Err(reason) => reason,
        };
        let mut skipped = Skipped { name: name.to_owned(), reason, set_aside: None };
        if skipped.reason.is_damage() && name != name::LATEST {
            let reason = format!("{}\n", skipped.reason);
            skipped.set_aside = self.store.set_aside(name, &reason).ok();
        }
        skipped
    }
}

/// Whether reading again may help.
fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() != ErrorKind::PermissionDenied)
}

/// Whether a file may be a checkpoint by the end of its name, and is not one of this directory.
fn is_foreign(name: &str) -> bool {
    let ends = [".pt", ".pth", ".ckpt"].iter().any(|end| name.to_lowercase().ends_with(end));
    ends && name::iteration(name).is_none() && name != name::LATEST
}
