//! A directory of checkpoints: save, load, list, verify, prune, resume.

mod delete;
mod id;
mod list;
mod lock;
mod name;
mod prune;
mod resume;
mod sharded;
mod superseded;
mod unread;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::checkpoint::{Checkpoint, now_iso};
use crate::codec::torch::{TorchFile, TorchPlan, UNRECOGNIZED, Unprotected};
use crate::codec::{CheckpointFile, MEMORY, foreign, in_file};
use crate::error::{Error, Place, Result};
use crate::read_options::ReadOptions;
use crate::retention::Retention;
use crate::store::{
    IntoLocation, Io, LocalStore, Publication, ReadAt, Stamp, Store, WriteAt, remote,
};
use crate::threads::held;
use crate::timeline::Stopwatch;
use crate::verify::{Verification, verify_opened};
use crate::writer::{SaveHandle, Saved, Writer};

use name::Named;

pub use crate::codec::torch::Fields;
pub use crate::threads::default_threads;
pub use crate::timeline::Timeline;
pub use id::CheckpointId;
pub use list::Listed;
pub use prune::{Prune, Verdict};
pub use resume::{Resume, Resumed, Skipped, Unreadable};
pub use sharded::ShardedSave;

/// How a [`CheckpointManager`] works.
#[derive(Debug, Clone)]
pub struct Options {
    retention: Retention,
    unprotected: Unprotected,
    /// At least one.
    threads: usize,
    io: Io,
    memory: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention::keep_all(),
            unprotected: Unprotected::Refuse,
            threads: default_threads(),
            io: Io::default(),
            memory: MEMORY,
        }
    }
}

impl Options {
    /// Applies `retention` after each save.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Whether files without any checksums are loaded.
    #[must_use]
    pub fn unprotected(mut self, unprotected: Unprotected) -> Self {
        self.unprotected = unprotected;
        self
    }

    /// Threads that read, write and verify; by default one per core, at most 8.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How files reach the device, in directories of the local file system.
    #[must_use]
    pub fn io(mut self, io: Io) -> Self {
        self.io = io;
        self
    }

    /// Bytes of memory that a save may use besides the state; 64 MiB by default. With less, fewer
    /// threads write; at least one thread (2 MiB) always does.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }
}

/// Where the tensors of a loaded checkpoint are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Residency {
    /// In memory; every byte was checked.
    #[default]
    Memory,
    /// On disk; every byte was checked now, and is checked again when it is used. Takes no memory
    /// for the tensors.
    Verified,
    /// On disk; each is read and checked when it is used.
    Disk,
}

/// A directory of checkpoints, `checkpoint_iter_{N}.pt` each.
///
/// A save that has returned survives any crash; until it returns, the previous checkpoint is there.
/// Damage is never loaded: a load checks every byte against its digest.
///
/// One process writes to a directory at a time. Its managers of that directory share the write
/// lease, and their saves follow one another. Reading needs no lease.
///
/// ```
/// use scai_checkpoint::{Checkpoint, CheckpointManager, Dict, Options, Tensor};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let directory = directory.path().join("checkpoints");
/// let manager = CheckpointManager::create(
///     &directory,
///     Options::default().retention("last:3".parse()?),
/// )?;
/// let model: Dict =
///     [("fc.weight", Tensor::from_vec(vec![2, 2], vec![1.0_f32; 4])?)].into_iter().collect();
/// let saved = manager.save(Checkpoint::new(100, model, Dict::new()))?;
/// assert_eq!(saved.name, "checkpoint_iter_100.pt");
///
/// let resumed = manager.resume()?.expect("there is a checkpoint");
/// assert_eq!(resumed.checkpoint.iteration, 100);
/// # Ok::<(), scai_checkpoint::Error>(())
/// ```
#[derive(Debug)]
pub struct CheckpointManager {
    shared: Arc<Shared>,
    background: Mutex<Option<Writer>>,
}

/// What a manager and its background thread share.
#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    options: Options,
    writing: lock::Writing,
}

impl CheckpointManager {
    /// Opens a directory that exists: any path, or a [`Location`](crate::store::Location); or the part of an
    /// object store that a URL names, which is there as soon as something is saved.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not exist; [`Error::Invalid`] for a URL that is not understood.
    pub fn open(location: impl IntoLocation, options: Options) -> Result<Self> {
        let path = location.to_path_buf();
        let failed = |error| Error::of_path("open the directory", path.clone(), error);
        let location = location.into_location().map_err(failed)?;
        if let Some(store) = remote(&location)? {
            return Ok(Self::with_store(store, options));
        }
        let store = LocalStore::open(location).map_err(failed)?;
        Ok(Self::in_directory(store, options))
    }

    /// Opens a directory, or a part of an object store as [`CheckpointManager::open`], and creates it if it
    /// does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be created.
    pub fn create(location: impl IntoLocation, options: Options) -> Result<Self> {
        let path = location.to_path_buf();
        let failed = |error| Error::io("create the directory", error).at_path(&path);
        let location = location.into_location().map_err(failed)?;
        if let Some(store) = remote(&location)? {
            return Ok(Self::with_store(store, options));
        }
        let store = LocalStore::create(location).map_err(failed)?;
        Ok(Self::in_directory(store, options))
    }

    fn in_directory(store: LocalStore, options: Options) -> Self {
        let store = store.with_io(options.io);
        let writing = lock::Writing::of_directory(store.path());
        Self::new(Arc::new(store), writing, options)
    }

    /// Manages the checkpoints in any store, which decides by itself how it writes.
    ///
    /// Managers made by this do not share the write lease, not even those of one store: the first
    /// that writes keeps it.
    pub fn with_store(store: Arc<dyn Store>, options: Options) -> Self {
        Self::new(store, lock::Writing::default(), options)
    }

    fn new(store: Arc<dyn Store>, writing: lock::Writing, options: Options) -> Self {
        let shared = Shared { store, options, writing };
        Self { shared: Arc::new(shared), background: Mutex::new(None) }
    }

    /// Saves a checkpoint and returns when it is durable.
    ///
    /// The bytes are written to a temporary file, which is synced and renamed to
    /// `checkpoint_iter_{N}.pt`, and the directory is synced; then `latest.pt` is moved and retention
    /// applied. A checkpoint of the same iteration is replaced in one step. If this process has
    /// neither saved nor loaded it, it is first kept under another name, `….pt.earlier`, unless it is
    /// superseded.
    ///
    /// # Errors
    /// The directory is then as it was: [`Error::DiskFull`], [`Error::Locked`] if another process
    /// writes to it, [`Error::Conversion`] for a value that a checkpoint cannot hold,
    /// [`Error::Background`] if an earlier save in the background failed.
    ///
    /// Two errors leave the new file: [`Error::NotDurable`] if it may not survive a power loss, and
    /// [`Error::Damaged`] if it was read back, as is done before others are deleted in its favour,
    /// and was not what had been written. It is then set aside as by a resume, unless it is the
    /// only one: the next resume reports it.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<Saved> {
        self.flush()?;
        self.shared.save(checkpoint, || Ok(()))
    }

    /// Saves a checkpoint in the background; the handle says when it is durable.
    ///
    /// The state is snapshotted when this returns: tensors share their memory with the snapshot
    /// and must not be changed in place. One save may be running and one waiting; a further call blocks.
    ///
    /// # Errors
    /// [`Error::Background`] if an earlier save in the background failed and nobody has asked its
    /// handle; this checkpoint is then not saved.
    pub fn save_in_background(&self, checkpoint: Checkpoint) -> Result<SaveHandle> {
        self.save_in_background_if(checkpoint, || Ok(()))
    }

    /// Saves as [`CheckpointManager::save_in_background`] does, unless `approve` returns an error.
    /// It is called on the thread that saves, after every byte was read and written and before the
    /// file gets its name: a caller that lends memory can detect there that it has changed meanwhile.
    ///
    /// # Errors
    /// As [`CheckpointManager::save_in_background`]. The handle returns an error of `approve`.
    pub fn save_in_background_if(
        &self,
        checkpoint: Checkpoint,
        approve: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<SaveHandle> {
        let shared = Arc::clone(&self.shared);
        let save = move || shared.save(checkpoint, approve);
        let mut background = held(&self.background);
        let writer = match &mut *background {
            Some(writer) => writer,
            none => match Writer::start() {
                Ok(writer) => none.insert(writer),
                // If the system cannot start a thread, this one saves.
                Err(_) => return save().map(SaveHandle::ended_with),
            },
        };
        writer.save(save)
    }

    /// Waits until all saves in the background are durable.
    ///
    /// # Errors
    /// [`Error::Background`] if one failed and nobody has asked its handle.
    pub fn flush(&self) -> Result<()> {
        match &*held(&self.background) {
            Some(writer) => writer.flush(),
            None => Ok(()),
        }
    }

    /// Waits at most `limit` until no more than `count` saves in the background are unfinished, and
    /// says whether that is so. With 1 a further save begins at once; with 0 all have ended.
    pub fn wait_for_saves(&self, count: usize, limit: Duration) -> bool {
        let unfinished = held(&self.background).as_ref().map(Writer::handles).unwrap_or_default();
        match unfinished.len().checked_sub(count + 1) {
            // They end in their order.
            Some(last) => unfinished[last].wait_end(limit),
            None => true,
        }
    }

    /// Loads a checkpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Damaged`] if a byte is not what was saved, with the tensor and
    /// the location; [`Error::Unprotected`] for a file without checksums, unless the options accept
    /// it; [`Error::MissingField`].
    pub fn load(&self, id: impl Into<CheckpointId>, residency: Residency) -> Result<Checkpoint> {
        self.flush()?;
        self.shared.load_known(&self.shared.name_of(id.into())?, residency)
    }

    /// Notes that the caller has read a checkpoint by its path, so that a save may replace it like
    /// one that was loaded here.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such checkpoint.
    pub fn note_read(&self, id: impl Into<CheckpointId>) -> Result<()> {
        let name = self.shared.name_of(id.into())?;
        let stamp = self.shared.open(&name)?.stamp();
        self.shared.writing.seen().read(&name, stamp);
        Ok(())
    }

    /// All checkpoints, by iteration. Reads the beginning of each file, not its tensors.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read. A file that cannot be read is listed with its
    /// problem.
    pub fn list(&self) -> Result<Vec<Listed>> {
        self.flush()?;
        self.shared.list()
    }

    /// The paths of all checkpoints, by iteration. Opens none of them.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn paths(&self) -> Result<Vec<PathBuf>> {
        self.flush()?;
        let entries = self.shared.entries()?;
        let found = name::checkpoints(&entries).into_iter();
        Ok(found.map(|named| self.shared.path(&named.name)).collect())
    }

    /// The iterations of all checkpoints, in order. Opens none of them.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn iterations(&self) -> Result<Vec<u64>> {
        self.flush()?;
        let found = name::checkpoints(&self.shared.entries()?);
        let mut iterations: Vec<u64> = found.into_iter().map(|named| named.iteration).collect();
        iterations.dedup();
        Ok(iterations)
    }

    /// The path of the checkpoint of an iteration.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn path_of(&self, iteration: u64) -> Result<PathBuf> {
        self.flush()?;
        Ok(self.shared.path(&self.shared.named(iteration)?.name))
    }

    /// The checkpoint with the largest iteration that is not superseded; `None` in a directory without
    /// any. Opens no other.
    ///
    /// It is not verified; see [`CheckpointManager::resume`].
    ///
    /// # Errors
    /// As [`CheckpointManager::list`].
    pub fn latest(&self) -> Result<Option<Listed>> {
        self.flush()?;
        self.shared.latest_of(&self.shared.entries()?)
    }

    /// Reads every byte of a checkpoint and reports all that is wrong.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened. A file that does not exist is reported, not an error.
    pub fn verify(&self, id: impl Into<CheckpointId>) -> Result<Verification> {
        self.verify_with(id, ReadOptions::default())
    }

    /// As [`CheckpointManager::verify`], with progress and cancellation.
    ///
    /// # Errors
    /// As [`CheckpointManager::verify`]; [`Error::Cancelled`].
    pub fn verify_with<'o>(
        &self,
        id: impl Into<CheckpointId>,
        options: impl Into<ReadOptions<'o>>,
    ) -> Result<Verification> {
        self.flush()?;
        let opened = self.shared.name_of(id.into()).and_then(|name| self.shared.open(&name));
        verify_opened(opened, options.into().or_threads(self.shared.options.threads))
    }

    /// Keeps a checkpoint from being pruned.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such checkpoint; [`Error::Invalid`] if the file is not called
    /// like one.
    pub fn pin(&self, id: impl Into<CheckpointId>) -> Result<()> {
        self.flush()?;
        let name = self.shared.checkpoint_at(id.into())?;
        let mark = name::pin(&name);
        self.shared.store.publish(Publication::of_bytes(&mark, &[]))?;
        // A prune may have deleted it before the mark was there.
        if !self.shared.exists(&name)? {
            self.shared.store.remove(&[&mark])?;
            return Err(Error::NotFound { path: self.shared.path(&name) });
        }
        Ok(())
    }

    /// Lets a checkpoint be pruned again.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such checkpoint.
    pub fn unpin(&self, id: impl Into<CheckpointId>) -> Result<()> {
        self.flush()?;
        let name = self.shared.name_of(id.into())?;
        drop(self.shared.open(&name)?);
        self.shared.store.remove(&[&name::pin(&name)])
    }

    /// Takes the write lease of the directory now instead of at the first write: a program that
    /// works for minutes before it saves learns at once that another process writes there.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process writes to the directory; [`Error::Io`] if this one may not.
    pub fn claim(&self) -> Result<()> {
        self.shared.writing.begin(&*self.shared.store).map(drop)
    }

    /// The directory: as it was given while that path leads there, otherwise absolute.
    pub fn directory(&self) -> PathBuf {
        self.shared.store.describe().into()
    }
}

impl Shared {
    fn save(
        &self,
        mut checkpoint: Checkpoint,
        approve: impl FnOnce() -> Result<()>,
    ) -> Result<Saved> {
        prune::check_statistics(&self.options.retention, &checkpoint.training_stats)?;
        let writing = self.writing.begin(&*self.store)?;
        let mut watch = Stopwatch::start();
        checkpoint.timestamp.get_or_insert_with(now_iso);
        let (iteration, notes) = (checkpoint.iteration, checkpoint.notes.take());
        let tree = checkpoint.into_tree()?;
        let plan = TorchPlan::with_notes(&tree, notes.as_deref())?.memory(self.options.memory);
        drop(tree);
        let name = name::checkpoint(iteration);
        let (size, threads) = (plan.len(), self.options.threads);
        let planned = watch.lap();
        self.recognise_latest();
        let was_superseded = self.superseded()?.contains(&name);
        let mut warnings = Vec::new();
        if !was_superseded {
            warnings.extend(self.keep_unread(&name, &writing)?);
        }
        let other = self.other_kind(&name, iteration)?;
        let mut root = 0;
        let write = |draft: &dyn WriteAt| {
            root = plan.write(threads, draft)?.root();
            Ok(())
        };
        let entry = Publication::new(&name, size, write).approved_by(approve);
        let steps = self.store.publish(entry)?;
        let mut watch = Stopwatch::start();
        let mut saved = Saved {
            path: self.path(&name),
            name,
            size,
            root,
            timeline: Timeline { plan: planned, ..steps },
            removed: Vec::new(),
            warnings: Vec::new(),
        };
        saved.warnings = warnings;
        if let Some(other) = other {
            self.remove_other_kind(&mut saved, &other, &writing)?;
        }
        self.conclude(&mut saved, iteration, was_superseded, &writing)?;
        saved.timeline.after = watch.lap();
        Ok(saved)
    }

    /// What follows when a checkpoint is durable: it is noted, `latest.pt` is moved, and retention applied.
    ///
    /// # Errors
    /// As [`Shared::note`]: the save is not acknowledged then.
    fn conclude(
        &self,
        saved: &mut Saved,
        iteration: u64,
        was_superseded: bool,
        writing: &lock::Operation<'_>,
    ) -> Result<()> {
        self.writing.seen().wrote(&saved.name, self.stamp(&saved.name));
        if was_superseded {
            // Until then, no resume finds it.
            self.no_longer_superseded(&[&saved.name], writing)?;
        }
        // The checkpoint is durable: what fails from here on does not fail the save.
        match self.newest() {
            Ok(newest) => {
                saved.warnings.extend(self.step_back(iteration, newest.as_ref()));
                if let Some(newest) = newest {
                    match self.move_latest(&newest.name, writing) {
                        Ok(warning) => saved.warnings.extend(warning),
                        Err(error) => saved.warnings.push(error),
                    }
                }
            }
            Err(error) => saved.warnings.push(error),
        }
        if !self.options.retention.rules().is_empty() {
            let just = saved.name.clone();
            match self.remove_redundant(&self.options.retention, &just, writing) {
                Ok(verdicts) => {
                    if let Err(error) = self.note(saved, verdicts, writing) {
                        // The save is not acknowledged, so the file does not count as written by
                        // this process.
                        self.writing.seen().forget(&saved.name);
                        return Err(error);
                    }
                }
                Err(error) => saved.warnings.push(error),
            }
        }
        Ok(())
    }

    /// Notes what retention did and found.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it found the checkpoint damaged that was just saved: the disk has lost
    /// what it had acknowledged, so this save fails.
    fn note(
        &self,
        saved: &mut Saved,
        verdicts: Vec<Verdict>,
        writing: &lock::Operation<'_>,
    ) -> Result<()> {
        saved.warnings.extend(self.missing_statistics(&verdicts));
        let alone =
            verdicts.iter().all(|verdict| verdict.removed || verdict.checkpoint.name == saved.name);
        for Verdict { checkpoint: Listed { name, problem, .. }, removed, .. } in verdicts {
            if removed {
                saved.removed.push(name);
                continue;
            }
            let Some(problem) = problem else { continue };
            let place = Place { path: Some(self.path(&name)), ..Place::default() };
            if name != saved.name {
                saved.warnings.push(Error::damaged(place, problem));
                continue;
            }
            if !alone
                && self.set_aside(&name, writing).set_aside.is_some()
                && let Ok(Some(newest)) = self.newest()
            {
                let _ = self.move_latest(&newest.name, writing);
            }
            let detail = format!("it was written and synced, but cannot be read back: {problem}");
            return Err(Error::damaged(place, detail));
        }
        Ok(())
    }

    /// As [`Shared::load`]; a save may then replace the file.
    fn load_known(&self, name: &str, residency: Residency) -> Result<Checkpoint> {
        let loaded = self.load(name, residency)?;
        self.writing.seen().read(name, loaded.stamp);
        Ok(loaded.checkpoint)
    }

    fn load(&self, name: &str, residency: Residency) -> Result<Loaded> {
        let opened = self.open(name)?;
        let unprotected = self.options.unprotected;
        let file = if name::is_group(name) {
            CheckpointFile::open(Arc::clone(&opened), unprotected)?
        } else {
            let file = TorchFile::open(Arc::clone(&opened), unprotected)
                .map_err(|error| in_its_place(name, &*opened, error))?;
            CheckpointFile::Torch(Box::new(file))
        };
        let mut tree = file.tree()?;
        let threads = self.options.threads;
        match residency {
            Residency::Memory => tree = tree.resident(threads)?,
            Residency::Verified => {
                if let Some(damage) = file.verify(threads).into_iter().next() {
                    return Err(damage);
                }
            }
            Residency::Disk => {}
        }
        let checkpoint = in_file(&*opened, Checkpoint::from_tree(tree))?;
        let checkpoint = Checkpoint { notes: file.notes()?, ..checkpoint };
        Ok(Loaded { checkpoint, file, stamp: opened.stamp() })
    }

    fn list(&self) -> Result<Vec<Listed>> {
        Ok(self.list_of(&self.entries()?, self.superseded()))
    }

    /// The checkpoint with the largest iteration that is not superseded.
    fn newest(&self) -> Result<Option<Named>> {
        let entries = self.entries()?;
        let superseded = self.superseded()?;
        let mut found = name::checkpoints(&entries).into_iter().rev();
        Ok(found.find(|named| !superseded.contains(&named.name)))
    }

    /// A warning, the first time that a save of `iteration` is below the newest checkpoint.
    fn step_back(&self, iteration: u64, newest: Option<&Named>) -> Option<Error> {
        let newest = newest.filter(|newest| newest.iteration > iteration)?;
        let first = self.writing.seen().warns_first(format!("above {}", newest.name));
        first.then(|| {
            Error::invalid(format!(
                "iteration {iteration} was saved below `{}`, which is kept and which the next resume \
                 will use; to go back on purpose, resume at the older iteration (`resume(at=…)`)",
                self.path(&newest.name).display()
            ))
        })
    }

    fn entries(&self) -> Result<Vec<crate::store::Entry>> {
        self.store.list("")
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        self.store.open(name)
    }

    /// Opens an entry; `None` if there is none of this name.
    fn find(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        match self.open(name) {
            Ok(file) => Ok(Some(file)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn exists(&self, name: &str) -> Result<bool> {
        self.find(name).map(|file| file.is_some())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.store.describe()).join(name)
    }
}

/// A checkpoint, and the open file that it was read from.
struct Loaded {
    checkpoint: Checkpoint,
    file: CheckpointFile,
    stamp: Option<Stamp>,
}

/// The error for a file that has the name of a checkpoint: bytes in no known format are damage, unless
/// they are recognised as something else.
fn in_its_place(name: &str, file: &dyn ReadAt, error: Error) -> Error {
    match error {
        Error::NotACheckpoint { place, what, .. }
            if what == UNRECOGNIZED && name::iteration(name).is_some() =>
        {
            let foreign = in_file(file, foreign(file)).unwrap_or_else(Some);
            foreign.unwrap_or_else(|| Error::damaged(*place, what))
        }
        error => error,
    }
}
