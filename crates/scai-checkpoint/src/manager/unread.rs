//! Keeping files of another run, which this one has not read, when a save needs their names.

use std::sync::Arc;

use super::lock::Operation;
use super::name;
use super::{Shared, list};
use crate::error::{Error, Result};
use crate::store::{Entry, ReadAt, Stamp, free_name};

/// Bytes by which copies are recognised: the end of a checkpoint has the checksums of all that comes
/// before.
const TAIL: u64 = 4096;

/// The key in [`super::lock::Seen`] of what `latest.pt` was made, as opposed to what was only read.
const MOVED: &str = "latest.pt, as it was moved";

impl Shared {
    /// Keeps the file called `name` under another name, unless it is what this process read or wrote.
    /// Returns a warning.
    pub(super) fn keep_unread(
        &self,
        name: &str,
        operation: &Operation<'_>,
    ) -> Result<Option<Error>> {
        let file = match self.store.open(name) {
            Err(Error::NotFound { .. }) => return Ok(None),
            // A directory without a commit is no checkpoint.
            Err(_) if name::is_group(name) => return Ok(None),
            // Another user's file, or a directory: in any case, it is not this run's.
            Err(_) => None,
            Ok(file) => Some(file),
        };
        if file.is_some_and(|file| self.writing.seen().knows(name, file.stamp())) {
            return Ok(None);
        }
        let entries = self.entries()?;
        self.keep_as_earlier(name, &entries, operation)
    }

    fn keep_as_earlier(
        &self,
        name: &str,
        entries: &[Entry],
        _operation: &Operation<'_>,
    ) -> Result<Option<Error>> {
        let mut earlier = free_name(&format!("{name}.earlier"), entries);
        let kept = match name::is_group(name) {
            // A directory has one name.
            true => self.store.rename_group(name, &earlier).map(|renamed| earlier = renamed),
            false => self.store.point(&earlier, name),
        };
        match kept {
            // It no longer exists.
            Err(Error::NotFound { .. }) => return Ok(None),
            kept => kept?,
        }
        Ok(Some(Error::invalid(format!(
            "`{}` already existed, and this run has not read it: it is kept as `{earlier}`",
            self.path(name).display()
        ))))
    }

    /// Makes `latest.pt` another name of the checkpoint `newest`.
    ///
    /// If it is not a name of any existing checkpoint, it is a state of its own (somebody copied it
    /// here): then it is kept, under the name of its iteration if there was no other.
    pub(super) fn move_latest(
        &self,
        newest: &str,
        operation: &Operation<'_>,
    ) -> Result<Option<Error>> {
        let kept = self.keep_latest(operation)?;
        // What was kept may be a checkpoint now, and the newest.
        let newer = if kept.is_some() { self.newest()? } else { None };
        let newest = newer.as_ref().map_or(newest, |newer| &newer.name);
        if name::is_group(newest) {
            // It is no file, so no file leads to it.
            self.drop_latest(&self.entries()?)?;
            return Ok(kept);
        }
        self.store.point(name::LATEST, newest)?;
        self.writing.seen().read(MOVED, self.stamp(name::LATEST));
        Ok(kept)
    }

    /// Notes that `latest.pt` is another name of a checkpoint, before a save replaces that one.
    pub(super) fn recognise_latest(&self) {
        let Ok(latest) = self.store.open(name::LATEST) else { return };
        let stamp = latest.stamp();
        if stamp.is_some()
            && !self.writing.seen().knows(MOVED, stamp)
            && let Ok(entries) = self.entries()
            && self.is_a_name_of_another(&latest, &entries).is_ok_and(|another| another)
        {
            self.writing.seen().read(MOVED, stamp);
        }
    }

    /// Deletes `latest.pt` if it is another name of a checkpoint.
    pub(super) fn drop_latest(&self, entries: &[Entry]) -> Result<()> {
        let Some(latest) = self.find(name::LATEST)? else { return Ok(()) };
        if !self.is_a_name_of_another(&latest, entries)? {
            return Ok(());
        }
        drop(latest);
        self.store.remove(&[name::LATEST])
    }

    fn keep_latest(&self, operation: &Operation<'_>) -> Result<Option<Error>> {
        // A dangling link is not there either.
        let Some(latest) = self.find(name::LATEST)? else { return Ok(None) };
        if latest.stamp().is_some() && self.writing.seen().knows(MOVED, latest.stamp()) {
            return Ok(None);
        }
        let entries = self.entries()?;
        if self.is_a_name_of_another(&latest, &entries)? {
            return Ok(None);
        }
        let inside = list::manifest(&*self.store, name::LATEST).ok();
        let iteration = inside.and_then(|manifest| u64::try_from(manifest.iteration?).ok());
        let mut others = name::checkpoints(&entries);
        others.retain(|named| self.writing.seen().saved(&named.name).is_none());
        if others.iter().any(|named| Some(named.iteration) == iteration) {
            // An earlier process saved that iteration again and ended before it moved the name.
            return Ok(None);
        }
        // Beside earlier checkpoints, it may be one that somebody deleted to go back.
        let taken = |own: &String| entries.iter().any(|entry| entry.name == *own);
        let own = iteration.map(name::checkpoint);
        let own = own.filter(|own| others.is_empty() && !taken(own));
        match own {
            Some(own) => {
                self.store.point(&own, name::LATEST)?;
                Ok(Some(Error::invalid(format!(
                    "`{}` was not an alias of any checkpoint: it is kept as `{own}`",
                    self.path(name::LATEST).display()
                ))))
            }
            None => self.keep_as_earlier(name::LATEST, &entries, operation),
        }
    }

    /// Whether `latest.pt` is a state of its own, not another name or a copy of a checkpoint.
    pub(super) fn latest_is_of_its_own(&self, entries: &[Entry]) -> bool {
        let Ok(latest) = self.store.open(name::LATEST) else { return false };
        !self.is_a_name_of_another(&latest, entries).unwrap_or(true)
    }

    /// Whether a file is a checkpoint of the directory under another name, or a copy of one, also of
    /// one that was set aside.
    fn is_a_name_of_another(&self, file: &Arc<dyn ReadAt>, entries: &[Entry]) -> Result<bool> {
        let like = |entry: &&Entry| entry.len == file.len() && entry.name.starts_with(name::PREFIX);
        for entry in entries.iter().rev().filter(like) {
            match self.open(&entry.name) {
                Ok(other) if same(&**file, &*other) => return Ok(true),
                Ok(_) | Err(Error::NotFound { .. }) => {}
                // It may be this one.
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    pub(super) fn stamp(&self, name: &str) -> Option<Stamp> {
        self.store.open(name).ok()?.stamp()
    }
}

/// Whether two files are one, or copies.
fn same(a: &dyn ReadAt, b: &dyn ReadAt) -> bool {
    if a.stamp().is_some() && a.stamp() == b.stamp() {
        return true;
    }
    let tail = |file: &dyn ReadAt| {
        let mut tail = vec![0; file.len().min(TAIL) as usize];
        file.read_at(file.len() - tail.len() as u64, &mut tail).ok().map(|()| tail)
    };
    a.len() == b.len() && tail(a).is_some_and(|ours| tail(b) == Some(ours))
}
