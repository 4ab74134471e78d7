//! Writers that are wrong, to see that the tests notice.

use std::io;
use std::sync::Arc;

use scai_checkpoint::store::{Directory, Draft, Entry, Lock, ReadAt};

use crate::training::{iteration, name};

/// What a careless store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// It writes final names in place: a rename is a copy.
    InPlace,
    /// It deletes all but the newest checkpoint to make room, before the new one is there.
    DeleteFirst,
}

/// Copies the bytes of one file into another, which exists in part meanwhile.
pub(crate) trait Overwrite: Directory {
    fn overwrite_with(&self, from: &str, to: &str) -> io::Result<()>;
}

/// A store that makes a mistake.
#[derive(Debug)]
pub(crate) struct Careless<S> {
    pub(crate) store: S,
    pub(crate) mistake: Mistake,
}

impl<S: Overwrite> Directory for Careless<S> {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        if self.mistake == Mistake::DeleteFirst {
            let entries = self.store.list()?;
            let mut iterations: Vec<u64> =
                entries.iter().filter_map(|entry| iteration(&entry.name)).collect();
            iterations.sort_unstable();
            iterations.pop();
            iterations.into_iter().try_for_each(|old| self.store.remove(&name(old)))?;
        }
        self.store.create(len)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        self.store.open(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.store.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.mistake == Mistake::InPlace && iteration(to).is_some() {
            self.store.overwrite_with(from, to)?;
            return self.store.remove(from);
        }
        self.store.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.store.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.store.sync()
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.store.link(from, to)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.store.lock()
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        self.store.sweep()
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}
