//! What the three checkpointers of a directory share: an epoch is committed when its third record is written.
//!
//! burn gives each checkpointer a thread of its own. On each thread the calls come in order; between threads
//! they come in any order: the model of epoch 2 may arrive before the scheduler of epoch 1, and a request to
//! delete before the last record of the epoch that takes the deleted one's place.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use scai_checkpoint::error::{Error, Result};
use scai_checkpoint::folder::{self, About, Staging};
use scai_checkpoint::store::{Directory, LocalDirectory, Lock};

use crate::epochs::{self, Epoch};
use crate::links;
use crate::part::{Each, Part};

#[derive(Debug)]
pub(crate) struct Coordinator {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What keeps other trainings out, from the first write on.
    writing: Option<Writing>,
    drafts: BTreeMap<usize, Draft>,
    /// Which parts are to be deleted: the last call for the part and the epoch was one to delete.
    deletes: BTreeMap<usize, Each<bool>>,
    /// An epoch could not be saved, and none was committed since: nothing is deleted meanwhile.
    lacking: bool,
    /// The epoch that was committed or restored last.
    current: Option<usize>,
    /// An epoch that is being restored, and the parts that were taken from it.
    restoring: Option<(Epoch, Each<bool>)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("drafts", &self.drafts).finish_non_exhaustive()
    }
}

/// The right to write to the directory.
struct Writing {
    directory: LocalDirectory,
    /// `None` if the file system has no locks.
    _lock: Option<Box<dyn Lock>>,
}

/// An epoch that is being saved.
#[derive(Debug)]
enum Draft {
    Open {
        staging: Staging,
        written: Each<bool>,
    },
    /// It was given up. A call that saves another part of it is told why, once.
    Failed {
        why: String,
        told: Each<bool>,
    },
}

impl Coordinator {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// Saves one part of an epoch: `write` writes the file. If it is the last of the three, the epoch is
    /// committed, and durable when this returns.
    ///
    /// # Errors
    /// The epoch is not saved, and what was written of it is removed. The calls for its other parts that come
    /// later return the cause as well.
    pub(crate) fn save(
        &self,
        part: Part,
        epoch: usize,
        write: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<()> {
        let staged = self.begin(part, epoch)?;
        let written = write(&staged.join(part.file(epoch)));
        self.finish(part, epoch, written)
    }

    /// The directory in which the files of an epoch are written.
    fn begin(&self, part: Part, epoch: usize) -> Result<PathBuf> {
        let mut state = self.lock();
        if let Some(marks) = state.deletes.get_mut(&epoch) {
            *marks.get_mut(part) = false;
        }
        if let Some(Draft::Failed { why, told }) = state.drafts.get_mut(&epoch) {
            let why = why.clone();
            if !std::mem::replace(told.get_mut(part), true) {
                if told.all() {
                    state.drafts.remove(&epoch);
                }
                return Err(self.not_saved(epoch, &why));
            }
            // It was told before: this is a second attempt.
            state.drafts.remove(&epoch);
        }
        if let Some(Draft::Open { staging, written }) = state.drafts.get_mut(&epoch) {
            *written.get_mut(part) = false;
            return Ok(staging.path().into());
        }
        let begun = state.writing(&self.path).and_then(|_| Staging::begin(&self.path));
        match begun {
            Ok(staging) => {
                let path = staging.path().to_owned();
                state.drafts.insert(epoch, Draft::Open { staging, written: Each::default() });
                Ok(path)
            }
            Err(error) => {
                state.give_up(part, epoch, error.to_string(), Each::default());
                Err(error)
            }
        }
    }

    fn finish(&self, part: Part, epoch: usize, result: Result<(), String>) -> Result<()> {
        let mut state = self.lock();
        match (state.drafts.remove(&epoch), result) {
            (Some(Draft::Open { staging, mut written }), Ok(())) => {
                *written.get_mut(part) = true;
                if !written.all() {
                    state.drafts.insert(epoch, Draft::Open { staging, written });
                    return Ok(());
                }
                state.lacking = true;
                epochs::check_replaceable(state.writing(&self.path)?, epoch)?;
                staging.commit(&epochs::name(epoch), &about(epoch))?;
                state.lacking = false;
                state.current = Some(epoch);
                state.tidy(&self.path, Some(epoch))
            }
            (Some(Draft::Open { staging, written }), Err(why)) => {
                let why = format!("`{}`: {why}", part.file(epoch));
                // What was written makes room for others at once.
                drop(staging);
                state.give_up(part, epoch, why.clone(), written);
                Err(self.not_saved(epoch, &why))
            }
            (Some(Draft::Failed { why, mut told }), _) => {
                *told.get_mut(part) = true;
                if !told.all() {
                    state.drafts.insert(epoch, Draft::Failed { why: why.clone(), told });
                }
                Err(self.not_saved(epoch, &why))
            }
            (None, _) => Err(self.not_saved(epoch, "it was deleted while it was being saved")),
        }
    }

    /// Deletes an epoch once all three parts are to be deleted and a newer epoch is durable.
    pub(crate) fn delete(&self, part: Part, epoch: usize) -> Result<()> {
        let mut state = self.lock();
        *state.deletes.entry(epoch).or_default().get_mut(part) = true;
        if state.deletes.get(&epoch).is_some_and(|marks| marks.all()) {
            state.drafts.remove(&epoch);
            state.tidy(&self.path, None)
        } else {
            Ok(())
        }
    }

    /// Reads one part of an epoch. All three parts are checked before the first one is returned, and all
    /// three come from one commit.
    pub(crate) fn restore(&self, part: Part, epoch: usize) -> Result<(PathBuf, Vec<u8>)> {
        let mut state = self.lock();
        let (opened, mut taken) = match state.restoring.take() {
            Some((opened, taken)) if opened.number() == epoch && !taken.get(part) => {
                (opened, taken)
            }
            _ => {
                // What a crash has left between two names of one epoch is put right first.
                let _ = folder::sweep(&self.path);
                let directory = LocalDirectory::open(&self.path).map_err(|error| {
                    let path = self.path.join(epochs::name(epoch));
                    match error.kind() {
                        ErrorKind::NotFound => Error::NotFound { path },
                        _ => Error::io("open", error).at_path(path),
                    }
                })?;
                (Epoch::open(&directory, epoch)?, Each::default())
            }
        };
        let bytes = opened.read(part)?;
        let path = opened.path(part);
        *taken.get_mut(part) = true;
        state.current = Some(epoch);
        state.restoring = (!taken.all()).then_some((opened, taken));
        Ok((path, bytes))
    }

    fn not_saved(&self, epoch: usize, why: &str) -> Error {
        let why = std::io::Error::other(format!("{why}; other epochs are untouched"));
        Error::io("save", why).at_path(self.path.join(epochs::name(epoch)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The directory, with the right to write to it.
    fn writing(&mut self, path: &Path) -> Result<&LocalDirectory> {
        let writing = match self.writing.take() {
            Some(writing) if writing.directory.check_location().is_ok() => writing,
            // Nothing was written yet, or somebody has moved the directory or removed it.
            _ => {
                let directory = LocalDirectory::create(path)
                    .map_err(|error| Error::io("create the directory", error).at_path(path))?;
                let lock = lock(&directory)?;
                Writing { directory, _lock: lock }
            }
        };
        Ok(&self.writing.insert(writing).directory)
    }

    fn give_up(&mut self, part: Part, epoch: usize, why: String, mut told: Each<bool>) {
        self.lacking = true;
        *told.get_mut(part) = true;
        if !told.all() {
            self.drafts.insert(epoch, Draft::Failed { why, told });
        }
    }

    /// Carries out the deletes that are due, and puts the names for burn's own checkpointers right.
    fn tidy(&mut self, path: &Path, saved: Option<usize>) -> Result<()> {
        let directory = self.writing(path)?.clone();
        let mut committed = epochs::committed(&directory)?;
        let due =
            if self.lacking { Vec::new() } else { due(&self.deletes, &committed, self.current) };
        for epoch in due {
            epochs::check_replaceable(&directory, epoch)?;
            match folder::remove(path.join(epochs::name(epoch))) {
                // It is gone: somebody who looked for the newest epoch has swept what was left of it.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
            committed.retain(|other| *other != epoch);
        }
        let drafts = &self.drafts;
        self.deletes.retain(|epoch, _| committed.contains(epoch) || drafts.contains_key(epoch));
        links::update(&directory, &committed, saved);
        Ok(())
    }
}

/// The committed epochs to delete now: those that all three parts asked for, except the newest one and the
/// one that the training is at. These are deleted once a newer epoch is committed.
fn due(
    deletes: &BTreeMap<usize, Each<bool>>,
    committed: &[usize],
    current: Option<usize>,
) -> Vec<usize> {
    let asked = deletes.iter().filter(|(_, marks)| marks.all()).map(|(epoch, _)| *epoch);
    let is_needed = |epoch: &usize| committed.last() == Some(epoch) || current == Some(*epoch);
    asked.filter(|epoch| committed.contains(epoch) && !is_needed(epoch)).collect()
}

/// Keeps other writers out of the directory; `None` if the file system has no locks.
pub(crate) fn lock(directory: &LocalDirectory) -> Result<Option<Box<dyn Lock>>> {
    match directory.lock() {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Error::Locked {
            path: directory.path().into(),
            holder: error.get_ref().map(ToString::to_string),
        }),
        Err(error) => Err(Error::io("lock the directory", error).at_path(directory.path())),
    }
}

/// What the commit of an epoch says besides its files.
pub(crate) fn about(epoch: usize) -> About {
    About::default().iteration(epoch as u64).note("framework", "burn")
}
