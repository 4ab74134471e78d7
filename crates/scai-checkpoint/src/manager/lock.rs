//! The write lease of a directory: one process holds it, and its managers share it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use crate::error::{Error, Result};
use crate::store::{Lease, Stamp, Store};
use crate::threads::held;

/// A manager's claim to write. The first write takes the lease and keeps it, so that two training
/// runs cannot alternate in one directory.
#[derive(Debug, Default)]
pub(super) struct Writing {
    turn: Arc<Turn>,
}

/// What managers of one directory share within a process.
#[derive(Debug, Default)]
struct Turn {
    /// The lease, once it was taken.
    taken: Mutex<Option<Box<dyn Lease>>>,
    /// The process that this belongs to. A fork has a copy but not the lease, and its copy of
    /// `taken` may stay locked forever.
    process: Process,
    /// What this process read and wrote here.
    seen: Mutex<Seen>,
    /// The directory: the key in `TURNS`.
    directory: Option<PathBuf>,
}

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

/// What the managers of one directory read and wrote, in one process.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Files that were read whole or written, with the stamp that shows whether they have changed.
    files: HashMap<String, Option<Stamp>>,
    /// Checkpoints that were saved, in order.
    saved: Vec<String>,
    /// Checkpoints that were found damaged on the device, and how.
    damaged: HashMap<String, (Option<Stamp>, String)>,
    /// Warnings that were given; each is given once.
    warned: HashSet<String>,
}

impl Seen {
    /// Notes that the file called `name` was read whole.
    pub(super) fn read(&mut self, name: &str, stamp: Option<Stamp>) {
        self.files.insert(name.to_owned(), stamp);
    }

    /// Notes that the file called `name` was written, and is the newest of this process.
    pub(super) fn wrote(&mut self, name: &str, stamp: Option<Stamp>) {
        self.read(name, stamp);
        self.saved.retain(|saved| saved != name);
        self.saved.push(name.to_owned());
    }

    /// Notes that the file called `name` no longer counts as written by this process.
    pub(super) fn forget(&mut self, name: &str) {
        self.files.remove(name);
        self.saved.retain(|saved| saved != name);
    }

    /// Whether the file called `name` is what was read or written.
    pub(super) fn knows(&self, name: &str, stamp: Option<Stamp>) -> bool {
        self.files.get(name).is_some_and(|known| *known == stamp)
    }

    /// How many saves had been made when the checkpoint `name` was; `None` if this process did not
    /// save it.
    pub(super) fn saved(&self, name: &str) -> Option<u64> {
        self.saved.iter().position(|saved| saved == name).map(|position| position as u64)
    }

    /// Notes that the checkpoint `name` was found damaged on the device.
    pub(super) fn is_damaged(&mut self, name: &str, stamp: Option<Stamp>, how: &str) {
        self.damaged.insert(name.to_owned(), (stamp, how.to_owned()));
    }

    /// How the checkpoint `name` was found damaged, if it is still that file.
    pub(super) fn damage(&self, name: &str, stamp: impl FnOnce() -> Option<Stamp>) -> Option<&str> {
        let (found, how) = self.damaged.get(name)?;
        (*found == stamp()).then_some(how)
    }

    /// Whether this is the first time that a warning is due.
    pub(super) fn warns_first(&mut self, of: String) -> bool {
        self.warned.insert(of)
    }
}

static TURNS: LazyLock<Mutex<HashMap<PathBuf, Weak<Turn>>>> = LazyLock::new(Mutex::default);

/// A write operation; others of this process wait until it is dropped.
pub(super) struct Operation<'a> {
    _turn: MutexGuard<'a, Option<Box<dyn Lease>>>,
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

    /// Begins an operation: waits for others of this process, and keeps other processes out.
    ///
    /// What a dead writer left is swept when the lease is first taken.
    pub(super) fn begin(&self, store: &dyn Store) -> Result<Operation<'_>> {
        if !self.turn.process.is_this() {
            return Err(Error::Locked {
                path: store.describe().into(),
                holder: Some(format!(
                    "process {}, from which this one was forked",
                    self.turn.process.0
                )),
            });
        }
        store.check_location()?;
        let mut taken = held(&self.turn.taken);
        if taken.is_none() {
            *taken = Some(store.lease()?);
            super::sharded::sweep(store);
        }
        Ok(Operation { _turn: taken })
    }

    /// As [`Writing::begin`], for a reader: `None` if the lease would have to be taken from a writer.
    pub(super) fn begin_if_free(&self, store: &dyn Store) -> Option<Operation<'_>> {
        if store.lease_takes_over() && held(&self.turn.taken).is_none() {
            return None;
        }
        self.begin(store).ok()
    }

    /// What this process read and wrote in the directory.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        held(&self.turn.seen)
    }
}

impl Turn {
    /// Whether it belongs to this process, or to a parent that held the lease when it forked: then
    /// `begin` is an error.
    fn is_usable(&self) -> bool {
        self.process.is_this() || self.taken.try_lock().map_or(true, |taken| taken.is_some())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let mut turns = held(&TURNS);
            // Another `Turn` may have taken its place.
            if turns.get(directory).is_some_and(|turn| turn.strong_count() == 0) {
                turns.remove(directory);
            }
        }
    }
}
