//! A checkpoint of many files: a directory in which somebody else writes files under names of their own, and
//! which is committed as one.
//!
//! Frameworks write their checkpoints so: the weights in one file, the optimizer in another, a few more
//! beside. Killed in between, they leave a directory that looks like a checkpoint and is none. Here the files
//! are written into a directory under a temporary name, which then becomes the checkpoint:
//!
//! ```text
//! make `.scai-….tmp/` beside the others      killed from here on: it is swept by the next one
//! somebody writes files
//! sync and digest every file, sync every directory below
//! write `commit.json`, which binds names, sizes and digests
//! give the directory its name                one that has the name is exchanged in one step
//! sync the names, remove what was replaced
//! ```
//!
//! ```
//! use scai_checkpoint::folder::{self, About, Staging};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let runs = directory.path().join("runs");
//! let staging = Staging::begin(&runs)?;
//! std::fs::write(staging.path().join("model.bin"), b"weights")?;
//! let path = staging.commit("checkpoint-10", &About::default().iteration(10))?;
//!
//! let commit = folder::commit_of(&path)?.expect("it was committed");
//! assert_eq!(commit.files["model.bin"].size, 7);
//! assert!(folder::verify(&path, 1)?.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod staging;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use twox_hash::XxHash3_128;

pub use crate::codec::{Bound, COMMIT, Commit, Digest, Kind};
#[cfg(feature = "testing")]
pub use staging::commit_in;
pub use staging::{About, Staging};

use crate::error::{Error, Place, Result};
use crate::read_options::ReadOptions;
use crate::store::{Directory, LocalDirectory, ReadAt, commit};
use crate::threads::{held, on_threads};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// What the directory at `path` was committed as; `None` if it has no `commit.json`.
///
/// # Errors
/// [`Error::NotFound`] if there is no such directory; [`Error::Damaged`] if the record is not what was
/// written; [`Error::Unsupported`] if it is of a newer version.
pub fn commit_of(path: impl AsRef<Path>) -> Result<Option<Commit>> {
    commit_in_directory(&opened(path.as_ref())?)
}

/// Reads every file of the committed directory at `path` and reports all that is wrong: files that are
/// missing, have another length, or hold other bytes. Other files are ignored.
///
/// # Errors
/// As [`commit_of`]; [`Error::NotACheckpoint`] if it has no `commit.json`; [`Error::Cancelled`].
pub fn verify<'o>(
    path: impl AsRef<Path>,
    options: impl Into<ReadOptions<'o>>,
) -> Result<Vec<Error>> {
    let directory = opened(path.as_ref())?;
    let Some(commit) = commit_in_directory(&directory)? else {
        return Err(Error::not_a_checkpoint(
            Place { path: Some(path.as_ref().into()), ..Place::default() },
            format!("the directory has no `{COMMIT}`"),
            "it was not committed with scai, so nothing is known about its files",
        ));
    };
    verify_in(&directory, &commit, &options.into())
}

/// Removes the committed directory at `path`, as a whole from one moment on.
///
/// # Errors
/// [`Error::Io`] if it cannot be removed.
pub fn remove(path: impl AsRef<Path>) -> Result<()> {
    let (parent, name) = parent_of(path.as_ref())?;
    commit::remove_child_durably(&parent, &name)
}

/// Removes what killed processes have left in the directory `parent`, and brings back what was about to be
/// replaced.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be read.
pub fn sweep(parent: impl AsRef<Path>) -> Result<()> {
    commit::sweep_children(&opened(parent.as_ref())?)
}

/// What a directory was committed as, and all that is wrong with it; `None` if it was not.
///
/// # Errors
/// As [`commit_of`].
#[cfg(feature = "testing")]
pub fn verify_directory(directory: &dyn Directory) -> Result<Option<(Commit, Vec<Error>)>> {
    let commit = commit_in_directory(directory)?;
    commit
        .map(|commit| {
            let wrong = verify_in(directory, &commit, &1.into())?;
            Ok((commit, wrong))
        })
        .transpose()
}

fn opened(path: &Path) -> Result<LocalDirectory> {
    LocalDirectory::open(path).map_err(|error| Error::of_path("open the directory", path, error))
}

fn parent_of(path: &Path) -> Result<(LocalDirectory, String)> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Error::io("find the directory", error).at_path(path))?;
    match (absolute.parent(), absolute.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => Ok((opened(parent)?, name.to_owned())),
        _ => Err(Error::invalid(format!("`{}` cannot name a checkpoint", path.display()))),
    }
}

pub(crate) fn commit_in_directory(directory: &dyn Directory) -> Result<Option<Commit>> {
    let path = Path::new(&directory.describe()).join(COMMIT);
    let file = match directory.open(COMMIT) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| Error::of_path("open", path.clone(), error))?,
    };
    crate::codec::read_commit(&*file).map(Some).map_err(|error| error.at_path(path))
}

/// All that is wrong with the files that a commit binds.
fn verify_in(
    directory: &dyn Directory,
    commit: &Commit,
    options: &ReadOptions<'_>,
) -> Result<Vec<Error>> {
    let files: Vec<(&String, &Bound)> = commit.files.iter().collect();
    let found = std::sync::Mutex::new(Vec::new());
    each(files.len(), options.thread_count(), |i| {
        let (name, bound) = files[i];
        let wrong = check_file(directory, name, bound, options).err();
        held(&found).extend(wrong.map(|wrong| (i, wrong)));
    });
    options.check()?;
    let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.sort_by_key(|(i, _)| *i);
    Ok(found.into_iter().map(|(_, wrong)| wrong).collect())
}

fn check_file(
    directory: &dyn Directory,
    name: &str,
    bound: &Bound,
    options: &ReadOptions<'_>,
) -> Result<()> {
    let path = path_in(directory, name);
    let damaged = |what: String| {
        let place = Place { path: Some(directory.describe().into()), ..Place::default() };
        Err(Error::damaged(place, format!("the file `{name}` {what}")))
    };
    let file = match open_below(directory, name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return damaged("is missing".to_owned());
        }
        file => file.map_err(|error| Error::of_path("open", path.clone(), error))?,
    };
    if file.len() != bound.size {
        return damaged(format!("has {} bytes, not {}", file.len(), bound.size));
    }
    // A device may return other bytes than memory still holds.
    file.forget_cached();
    let found = digest(&*file, options).map_err(|error| error.at_path(&path))?;
    if bound.digest == Digest::Xxh3_128(format!("{found:032x}")) {
        return Ok(());
    }
    damaged("does not match its checksum".to_owned())
}

/// Opens a file below a directory, by its name with slashes.
fn open_below(directory: &dyn Directory, name: &str) -> std::io::Result<Arc<dyn ReadAt>> {
    match name.split_once('/') {
        Some((child, below)) => open_below(&*directory.child(child)?, below),
        None => directory.open(name),
    }
}

/// The XXH3-128 digest of a file.
fn digest(file: &dyn ReadAt, options: &ReadOptions<'_>) -> Result<u128> {
    let mut hasher = XxHash3_128::new();
    let mut buffer = vec![0; PIECE.min(usize::try_from(file.len()).unwrap_or(PIECE))];
    let mut at = 0;
    while at < file.len() {
        options.check()?;
        let len = (buffer.len() as u64).min(file.len() - at) as usize;
        file.read_at(at, &mut buffer[..len]).map_err(|error| Error::io("read", error))?;
        hasher.write(&buffer[..len]);
        options.report(len as u64);
        at += len as u64;
    }
    Ok(hasher.finish_128())
}

/// Does `work` for each number below `count`, on up to `threads` threads.
fn each(count: usize, threads: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    on_threads(threads.clamp(1, count.max(1)), || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            work(i);
        }
    });
}

/// What errors call the file `name` of a directory.
pub(crate) fn path_in(directory: &dyn Directory, name: &str) -> PathBuf {
    Path::new(&directory.describe()).join(name)
}
