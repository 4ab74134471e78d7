//! A checkpoint of shards: a directory into which several processes write, and which one of them commits.
//!
//! ```text
//! one process    begin: make the directory, mend `.metadata`, remove what killed attempts have left
//! each process   write its shards, under names that no other attempt has
//! one process    commit:  check that every shard is there
//!                         write `<attempt>.metadata`
//!                         write `commit.json`, which binds all of these     from here on it is the checkpoint
//!                         write `.metadata`, for PyTorch's own reader
//!                         remove the files of the attempt before
//! ```
//!
//! Each file is durable before the next step, no file is ever overwritten except `commit.json` and
//! `.metadata`, and a reader accepts only what a commit binds: so a checkpoint is always of one attempt.
//!
//! PyTorch's reader, which knows only `.metadata`, finds one attempt too, the old or the new one. A process
//! that is killed after the commit leaves the old `.metadata` and the files that it names; the next attempt
//! replaces it before it removes them. A reader that has opened `.metadata` and not yet the shards may find
//! that a file is missing, because a later attempt has removed it. Without locks, and while two processes
//! commit at the same time, `.metadata` may name missing files until the slower one returns; if that one is
//! killed, until the next attempt has committed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use crate::checkpoint::now_iso;
use crate::codec::dcp::{Check, Index, METADATA, ShardPlan};
use crate::codec::torch::{Fields, Manifest, TorchFile};
use crate::codec::{Bound, COMMIT, Commit, Digest, Kind, Origin, Unprotected};
use crate::error::{Error, Place, Result};
use crate::file::WriteOptions;
use crate::folder::{commit_in_directory, path_in};
use crate::memory::zeroed;
use crate::store::{
    Directory, IntoLocation, LocalDirectory, Lock, Publication, ReadAt, attempt, attempt_in, commit,
};
use crate::value::Value;

/// An attempt to save, by the one process that will commit it.
#[derive(Debug)]
pub struct Attempt {
    directory: Arc<dyn Directory>,
    id: String,
    /// Shows to others that somebody saves here; `None` if the file system cannot.
    _held: Option<Box<dyn Lock>>,
}

/// What a commit says besides its files.
#[derive(Debug, Clone, Default)]
pub struct Description {
    iteration: Option<u64>,
    timestamp: Option<String>,
    training_stats: Fields,
    metadata: Fields,
    world_size: Option<u64>,
    about: BTreeMap<String, String>,
}

impl Description {
    /// What a state says of itself: `iteration`, `timestamp`, and those of `training_stats` and `metadata`
    /// that are short.
    pub fn of(state: &Value) -> Self {
        let Manifest { iteration, timestamp, training_stats, metadata, .. } =
            Manifest::new(state, Origin::Known);
        let iteration = iteration.and_then(|iteration| u64::try_from(iteration).ok());
        Self { iteration, timestamp, training_stats, metadata, ..Self::default() }
    }

    /// The iteration, whatever the state says.
    #[must_use]
    pub fn iteration(self, iteration: u64) -> Self {
        Self { iteration: Some(iteration), ..self }
    }

    /// The number of processes that write.
    #[must_use]
    pub fn world_size(self, world_size: u64) -> Self {
        Self { world_size: Some(world_size), ..self }
    }

    /// What the writer says of itself.
    #[must_use]
    pub fn note(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.about.insert(name.into(), value.into());
        self
    }
}

impl Attempt {
    /// Begins to save to the directory at `location`, which is created if it does not exist. What earlier
    /// attempts have left there uncommitted is removed.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process saves there now; [`Error::Io`].
    pub fn begin(location: impl IntoLocation) -> Result<Self> {
        let given = location.to_path_buf();
        let directory = LocalDirectory::create(location)
            .map_err(|error| Error::io("create the directory", error).at_path(given))?;
        Self::begin_in(Arc::new(directory))
    }

    /// Begins to save to a directory that exists, and whose name is durable.
    ///
    /// # Errors
    /// As [`Attempt::begin`].
    pub fn begin_in(directory: Arc<dyn Directory>) -> Result<Self> {
        Self::begin_with_id(directory, attempt())
    }

    fn begin_with_id(directory: Arc<dyn Directory>, id: String) -> Result<Self> {
        let held = match directory.hold() {
            Ok(held) => Some(held),
            Err(error) if error.kind() == ErrorKind::Unsupported => None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let path = directory.describe().into();
                return Err(Error::Locked { path, holder: None });
            }
            Err(error) => return Err(failed(&*directory, "lock the directory", error)),
        };
        let begun = Self { directory, id, _held: held };
        begun.sweep()?;
        Ok(begun)
    }

    /// What the names of its files begin with: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.directory.describe().into()
    }

    /// Removes files of attempts that were never committed. Nobody else saves here now.
    fn sweep(&self) -> Result<()> {
        let directory = &*self.directory;
        let listed = |error| failed(directory, "list the directory", error);
        if self._held.is_none() {
            // Whether their writers are gone cannot be known.
            return Ok(());
        }
        directory.sweep().map_err(listed)?;
        let entries = directory.list().map_err(listed)?;
        let left: Vec<&str> = entries
            .iter()
            .map(|entry| entry.name.as_str())
            .filter(|name| is_of_attempt(name))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        // Of a commit that cannot be read nothing is known, so nothing is removed.
        let Ok(commit) = commit_in_directory(directory) else { return Ok(()) };
        if let Some(commit) = &commit {
            // Its writer was killed before this, and `.metadata` names files that are to be removed.
            let Ok(missed) = missed_metadata(directory, commit) else { return Ok(()) };
            publish_metadata(directory, missed)?;
        }
        let bound = commit.map(|commit| commit.files).unwrap_or_default();
        let left: Vec<&str> = left.into_iter().filter(|name| !bound.contains_key(*name)).collect();
        commit::remove_durably(directory, &left)
    }

    /// Commits the shards that were written, and returns when the checkpoint is durable.
    ///
    /// `metadata` is the pickled `Metadata` of `torch.distributed.checkpoint`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a shard is not there or is another one, with its name; the errors of writing
    /// files. What was the checkpoint still is then, except after [`Error::NotDurable`] and errors that
    /// name `.metadata`: then the new one may be.
    pub fn commit(
        self,
        shards: BTreeMap<String, Bound>,
        metadata: &[u8],
        description: Description,
    ) -> Result<Commit> {
        let directory = &*self.directory;
        for (name, bound) in &shards {
            self.check(name, bound)?;
        }
        let named = format!("{}{METADATA}", self.id);
        let whole = Publication::of_bytes(&named, metadata).if_absent();
        commit::publish_entry(directory, whole)?;
        let mut files = shards;
        let digest = XxHash3_128::oneshot(metadata);
        files.insert(named, Bound::whole(metadata.len() as u64, digest));

        let Description {
            iteration,
            timestamp,
            training_stats,
            metadata: short,
            world_size,
            about,
        } = description;
        let timestamp = timestamp.unwrap_or_else(now_iso);
        let commit = Commit {
            iteration,
            about,
            world_size,
            training_stats,
            metadata: short,
            ..Commit::new(Kind::Shards, self.id.clone(), timestamp, files)
        };
        let before = commit_in_directory(directory).ok().flatten();
        commit::publish_entry(directory, Publication::of_bytes(COMMIT, &commit.encode()))?;
        commit::publish_entry(directory, Publication::of_bytes(METADATA, metadata))?;
        if self._held.is_none() {
            // What fails now is left to the next attempt.
            let _ = follow(directory, &commit.attempt);
        }
        // What cannot be removed now is left to the next attempt.
        let old: Vec<String> = before
            .into_iter()
            .flat_map(|before| before.files.into_keys())
            .filter(|name| is_of_attempt(name) && !commit.files.contains_key(name))
            .collect();
        let _ = commit::remove_durably(directory, &old);
        Ok(commit)
    }

    /// Checks that a shard is there and is the one that was written: its length, and its index.
    fn check(&self, name: &str, bound: &Bound) -> Result<()> {
        let path = path_in(&*self.directory, name);
        let place = || Place { path: Some(path.clone()), ..Place::default() };
        let shard = self.directory.open(name).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::damaged(
                place(),
                "the shard was written by another process, but is not here; all processes must see \
                 the same directory: is it shared between the machines?",
            ),
            _ => Error::of_path("open", path.clone(), error),
        })?;
        if shard.len() != bound.size {
            let detail = format!("the shard has {} bytes, not {}", shard.len(), bound.size);
            return Err(Error::damaged(place(), detail));
        }
        let Digest::Root(root) = &bound.digest else { return Ok(()) };
        let index = Index::read(&*shard).map_err(|error| error.at_path(&path))?;
        let found = index.map(|index| format!("{:032x}", index.root()));
        if found.as_ref() == Some(root) {
            return Ok(());
        }
        Err(Error::damaged(place(), "the shard is not the one that was written"))
    }
}

/// Writes a shard called `name` to the directory at `location`, where a process has begun an
/// [`Attempt`], and returns when it is durable.
///
/// # Errors
/// [`Error::NotFound`] if there is no such directory; as
/// [`Store::publish`](crate::store::Store::publish).
pub fn write(
    location: impl IntoLocation,
    name: &str,
    plan: ShardPlan,
    options: impl Into<WriteOptions>,
    approve: impl FnOnce() -> Result<()>,
) -> Result<Bound> {
    let (given, options) = (location.to_path_buf(), options.into());
    let opened = LocalDirectory::open(location);
    let directory = opened.map_err(|error| Error::of_path("open the directory", given, error))?;
    write_in(&directory.with_io(options.how()), name, plan, options.thread_count(), approve)
}

/// As [`write()`], to any directory.
///
/// # Errors
/// As [`write()`].
pub fn write_in(
    directory: &dyn Directory,
    name: &str,
    plan: ShardPlan,
    threads: usize,
    approve: impl FnOnce() -> Result<()>,
) -> Result<Bound> {
    let (size, mut root) = (plan.len(), 0);
    let shard = Publication::new(name, size, |to| {
        root = plan.write(threads, to)?.root();
        Ok(())
    });
    commit::publish_entry(directory, shard.if_absent().approved_by(approve))?;
    Ok(Bound::shard(size, root))
}

/// Reads every byte of the shards at `location`, without looking at what they are parts of, and returns all that
/// is wrong. Unlike [`file::verify`](crate::file::verify) it needs to know no item.
///
/// # Errors
/// [`Error::NotACheckpoint`] if the directory was not committed; [`Error::Damaged`] if the commit is not what
/// was written.
pub fn verify(location: impl IntoLocation, threads: usize) -> Result<Vec<Error>> {
    let given = location.to_path_buf();
    let opened = LocalDirectory::open(location);
    let directory = opened.map_err(|error| Error::of_path("open the directory", given, error))?;
    let Some(commit) = commit_in_directory(&directory)? else {
        return Err(Error::not_a_checkpoint(
            Place { path: Some(directory.describe().into()), ..Place::default() },
            format!("the directory has no `{COMMIT}`"),
            "it was not committed with scai, so nothing is known about its files",
        ));
    };
    let mut damage = Vec::new();
    for (name, bound) in &commit.files {
        let path = path_in(&directory, name);
        let checked = directory.open(name).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::damaged(Place::default(), "the file is missing"),
            _ => Error::io("open", error),
        });
        let found = checked.and_then(|file| check_items(&file, bound, threads));
        damage.extend(found.err().map(|error| error.at_path(&path)));
    }
    Ok(damage)
}

/// Reads every byte of a file that a commit binds.
fn check_items(file: &Arc<dyn ReadAt>, bound: &Bound, threads: usize) -> Result<()> {
    let damaged = |what: &str| Error::damaged(Place::default(), what);
    if file.len() != bound.size {
        return Err(damaged("the file has another length"));
    }
    let read = |bytes: std::ops::Range<u64>| -> Result<Box<[u8]>> {
        let mut content = zeroed(bytes.end - bytes.start, "read a file")?;
        file.read_at(bytes.start, &mut content).map_err(|error| Error::io("read", error))?;
        Ok(content)
    };
    let whole = |bytes: &[u8]| format!("{:032x}", XxHash3_128::oneshot(bytes));
    let Digest::Root(root) = &bound.digest else {
        let is_right = whole(&read(0..file.len())?) == bound.root();
        return if is_right { Ok(()) } else { Err(damaged("checksum mismatch")) };
    };
    let index = Index::read(&**file)?.filter(|index| format!("{:032x}", index.root()) == *root);
    let index = index.ok_or_else(|| damaged("the shard is not the one that was written"))?;
    let mut end = 0;
    for item in &index.items {
        if read(end..item.offset)?.iter().any(|&byte| byte != 0) {
            return Err(damaged("the bytes between two items are not zero"));
        }
        end = item.offset + item.len;
        let content = read(item.offset..end)?;
        let is_right = match item.check {
            Check::Bytes => XxHash3_128::oneshot(&content) == item.digest,
            Check::Root => {
                let file = Arc::new(crate::file::Bytes(content.into_vec()));
                let opened = TorchFile::open(file, Unprotected::Accept)?;
                opened.root() == Some(item.digest) && opened.verify(threads).is_empty()
            }
        };
        if !is_right {
            return Err(damaged("checksum mismatch"));
        }
    }
    Ok(())
}

/// As [`Attempt::begin_in`], with an id that is not random.
///
/// # Errors
/// As [`Attempt::begin`].
#[cfg(feature = "testing")]
pub fn begin_with_id(directory: Arc<dyn Directory>, id: String) -> Result<Attempt> {
    Attempt::begin_with_id(directory, id)
}

/// What the directory was committed as; `None` if it was not.
///
/// # Errors
/// As [`commit_of`](crate::folder::commit_of).
#[cfg(feature = "testing")]
pub fn committed(directory: &dyn Directory) -> Result<Option<Commit>> {
    commit_in_directory(directory)
}

/// Whether a file belongs to an attempt, by its name.
fn is_of_attempt(name: &str) -> bool {
    attempt_in(name).is_some_and(|(_, rest)| rest.starts_with(['_', '.']))
}

/// The bytes that the commit binds as `.metadata`, if `.metadata` has others.
fn missed_metadata(directory: &dyn Directory, commit: &Commit) -> Result<Option<Box<[u8]>>> {
    let named = format!("{}{METADATA}", commit.attempt);
    let Some(bound) = commit.files.get(&named) else { return Ok(None) };
    let path = |name: &str| path_in(directory, name);
    let read = |name: &str| -> Result<Box<[u8]>> {
        let failed = |error| Error::of_path("read", path(name), error);
        let file = directory.open(name).map_err(failed)?;
        let mut bytes = zeroed(file.len(), "read a file")?;
        file.read_at(0, &mut bytes).map_err(failed)?;
        Ok(bytes)
    };
    let is_bound = |bytes: &[u8]| {
        let digest = twox_hash::XxHash3_128::oneshot(bytes);
        *bound == Bound::whole(bytes.len() as u64, digest)
    };
    if read(METADATA).is_ok_and(|bytes| is_bound(&bytes)) {
        return Ok(None);
    }
    let bytes = read(&named)?;
    if is_bound(&bytes) {
        return Ok(Some(bytes));
    }
    let place = Place { path: Some(path(&named)), ..Place::default() };
    Err(Error::damaged(place, "the file does not match its checksum"))
}

fn publish_metadata(directory: &dyn Directory, bytes: Option<Box<[u8]>>) -> Result<()> {
    let Some(bytes) = bytes else { return Ok(()) };
    commit::publish_entry(directory, Publication::of_bytes(METADATA, &bytes)).map(drop)
}

/// Makes `.metadata` that of the last commit. Without locks another process may have committed since
/// `attempt` did, written its `.metadata` earlier, and removed the files that are named there now.
fn follow(directory: &dyn Directory, attempt: &str) -> Result<()> {
    let mut attempt = attempt.to_owned();
    while let Some(commit) = commit_in_directory(directory)?
        && commit.attempt != attempt
    {
        publish_metadata(directory, missed_metadata(directory, &commit)?)?;
        attempt = commit.attempt;
    }
    Ok(())
}

fn failed(directory: &dyn Directory, action: &'static str, error: std::io::Error) -> Error {
    Error::io(action, error).at_path(directory.describe())
}
