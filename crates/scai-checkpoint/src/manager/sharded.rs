//! Checkpoints that several processes write: directories of shards among the files.

use std::collections::BTreeMap;

use twox_hash::XxHash3_128;

use super::lock::Operation;
use super::{CheckpointManager, Shared, name};
use crate::codec::Bound;
use crate::error::Result;
use crate::shards::{Attempt, Description};
use crate::store::Store;
use crate::timeline::{Stopwatch, Timeline};
use crate::writer::Saved;

/// A checkpoint that several processes are writing, in the one that will commit it.
#[derive(Debug)]
pub struct ShardedSave {
    attempt: Attempt,
    iteration: u64,
    watch: Stopwatch,
}

impl ShardedSave {
    /// The attempt: where the processes write, and how their files' names begin.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }
}

impl CheckpointManager {
    /// Begins to save the checkpoint of `iteration` as a directory of shards, `checkpoint_iter_{N}`.
    ///
    /// Each process then writes its shards there with [`shards::write`](crate::shards::write), for which it
    /// needs no manager, and [`CheckpointManager::commit_shards`] makes them the checkpoint. What was the
    /// checkpoint of this iteration is that until then; one that this process has neither saved nor loaded
    /// is renamed to `….earlier` now.
    ///
    /// # Errors
    /// [`Error::Locked`](crate::Error::Locked) if another process writes to the directory;
    /// [`Error::Background`](crate::Error::Background) if an earlier save in the background failed;
    /// [`Error::Io`](crate::Error::Io).
    pub fn begin_shards(&self, iteration: u64) -> Result<ShardedSave> {
        self.flush()?;
        let (shared, watch) = (&self.shared, Stopwatch::start());
        let writing = shared.writing.begin(&*shared.store)?;
        let name = name::group(iteration);
        if !shared.superseded()?.contains(&name) {
            shared.keep_unread(&name, &writing)?;
        }
        let attempt = Attempt::begin_in(shared.store.group(&name)?)?;
        Ok(ShardedSave { attempt, iteration, watch })
    }

    /// Commits what the processes have written, and returns when the checkpoint is durable; as
    /// [`CheckpointManager::save`], it then applies retention.
    ///
    /// # Errors
    /// As [`Attempt::commit`] and [`CheckpointManager::save`].
    pub fn commit_shards(
        &self,
        save: ShardedSave,
        shards: BTreeMap<String, Bound>,
        metadata: &[u8],
        description: Description,
    ) -> Result<Saved> {
        let ShardedSave { attempt, iteration, mut watch } = save;
        let shared = &self.shared;
        let writing = shared.writing.begin(&*shared.store)?;
        let name = name::group(iteration);
        let was_superseded = shared.superseded()?.contains(&name);
        let other = shared.other_kind(&name, iteration)?;
        let write = watch.lap();
        let commit = attempt.commit(shards, metadata, description.iteration(iteration))?;
        let mut saved = Saved {
            path: shared.path(&name),
            name,
            size: commit.files.values().map(|bound| bound.size).sum(),
            root: XxHash3_128::oneshot(&commit.encode()),
            timeline: Timeline { write, commit: watch.lap(), ..Timeline::default() },
            removed: Vec::new(),
            warnings: Vec::new(),
        };
        if let Some(other) = other {
            shared.remove_other_kind(&mut saved, &other, &writing)?;
        }
        shared.conclude(&mut saved, iteration, was_superseded, &writing)?;
        saved.timeline.after = watch.lap();
        Ok(saved)
    }
}

impl Shared {
    /// The checkpoint of the same iteration that is a file where `name` is a directory, or the other way round.
    pub(super) fn other_kind(&self, name: &str, iteration: u64) -> Result<Option<String>> {
        let other = match name::is_group(name) {
            true => name::checkpoint(iteration),
            false => name::group(iteration),
        };
        Ok(self.exists(&other)?.then_some(other))
    }

    /// Removes what was just replaced by a checkpoint of another kind; one of another run is kept under
    /// another name.
    pub(super) fn remove_other_kind(
        &self,
        saved: &mut Saved,
        other: &str,
        writing: &Operation<'_>,
    ) -> Result<()> {
        saved.warnings.extend(self.keep_unread(other, writing)?);
        self.store.remove(&[other])?;
        self.no_longer_superseded(&[other], writing)
    }
}

/// Removes what processes that were killed have left of directories that were never committed.
pub(super) fn sweep(store: &dyn Store) {
    let names = store.unopenable().unwrap_or_default();
    for name in names.iter().filter(|name| name::is_group(name)) {
        let Ok(directory) = store.group(name) else { continue };
        // This removes files of attempts; what somebody else has put there stays.
        let Ok(attempt) = Attempt::begin_in(directory.clone()) else { continue };
        let is_empty = directory.list().is_ok_and(|files| files.is_empty())
            && directory.children().is_ok_and(|children| children.is_empty());
        drop(attempt);
        if is_empty {
            let _ = store.remove(&[name]);
        }
    }
}
