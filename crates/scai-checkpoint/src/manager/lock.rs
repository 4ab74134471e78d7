//! The right to write to a directory: one process has it, and its managers share it.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use crate::commit;
use crate::error::{Error, Result};
use crate::store::{Lock, Store};
use crate::threads::held;

/// A manager's claim to write. The right is taken by the first write and kept from then on, so
/// that two training runs cannot take turns in one directory.
#[derive(Debug, Default)]
pub(super) struct Writing {
    turn: Arc<Turn>,
}

/// What managers of one directory share within a process.
#[derive(Debug, Default)]
struct Turn {
    /// The right to write, once it was taken.
    taken: Mutex<Option<Taken>>,
    /// The process that this is of. A fork has a copy, but not the right, and its copy of `taken`
    /// may stay locked for ever.
    process: Process,
    /// Checkpoints that were found right on the device since the right was taken.
    verified: Mutex<HashSet<String>>,
    /// The directory, by which the turn is found again.
    directory: Option<PathBuf>,
}

/// The lock, where the store has locks at all.
type Taken = Option<Box<dyn Lock>>;

/// The process that a value was made in.
#[derive(Debug)]
struct Process(u32);

impl Default for Process {
    fn default() -> Self {
        Self(std::process::id())
    }
}

impl Process {
    fn is_this(&self) -> bool {
        self.0 == std::process::id()
    }
}

static TURNS: LazyLock<Mutex<HashMap<PathBuf, Weak<Turn>>>> = LazyLock::new(Mutex::default);

/// One writing operation; others of this process wait until it is dropped.
pub(super) struct Operation<'a> {
    _turn: MutexGuard<'a, Option<Taken>>,
}

impl Writing {
    /// The claim for a directory, shared with the other managers of it.
    pub(super) fn of_directory(directory: &Path) -> Self {
        let Ok(directory) = directory.canonicalize() else { return Self::default() };
        let mut turns = held(&TURNS);
        let known = turns.get(&directory).and_then(Weak::upgrade);
        let turn = known.filter(|turn| turn.is_usable()).unwrap_or_else(|| {
            let mut turn = Turn::default();
            turn.directory = Some(directory.clone());
            let turn = Arc::new(turn);
            turns.insert(directory, Arc::downgrade(&turn));
            turn
        });
        Self { turn }
    }

    /// Begins an operation: waits for those of this process, keeps other processes out.
    ///
    /// Drafts that a dead writer left are swept when the right is first taken.
    pub(super) fn begin(&self, store: &dyn Store) -> Result<Operation<'_>> {
        if !self.turn.process.is_this() {
            return Err(Error::Locked {
                path: store.describe(),
                holder: Some(format!(
                    "process {}, of which this one is a fork",
                    self.turn.process.0
                )),
            });
        }
        let mut taken = held(&self.turn.taken);
        match &*taken {
            Some(_) => {}
            None => {
                let lock = match commit::lock(store) {
                    Ok(lock) => Some(lock),
                    // Some network file systems have no locks. Every save is still one rename.
                    Err(Error::Io { source, .. }) if source.kind() == ErrorKind::Unsupported => {
                        None
                    }
                    Err(error) => return Err(error),
                };
                store.sweep().map_err(|error| {
                    Error::io("sweep the directory", error).at_path(store.describe())
                })?;
                // What was seen without the right to write may have been replaced since.
                self.verified().clear();
                *taken = Some(lock);
            }
        }
        Ok(Operation { _turn: taken })
    }

    /// Checkpoints that were found right on the device while this process had the right to write.
    pub(super) fn verified(&self) -> MutexGuard<'_, HashSet<String>> {
        held(&self.turn.verified)
    }
}

impl Turn {
    /// Whether it is of this process, or of one that forked off this one while it had the right:
    /// then it says so.
    fn is_usable(&self) -> bool {
        self.process.is_this() || self.taken.try_lock().map_or(true, |taken| taken.is_some())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let mut turns = held(&TURNS);
            // Another turn may stand there by now.
            if turns.get(directory).is_some_and(|turn| turn.strong_count() == 0) {
                turns.remove(directory);
            }
        }
    }
}
