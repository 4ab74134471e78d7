//! The open files of a directory, and what is wrong with them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::index::Index;
use super::item::Shard;
use super::metadata::{Location, Metadata};
use super::stitched::Copies;
use crate::codec::Unprotected;
use crate::codec::binding::{Bound, Commit, Digest};
use crate::error::{Error, Place, Result};
use crate::store::{ReadAt, attempt_in};

/// The files that hold the items, open.
#[derive(Debug)]
pub(super) struct Shards {
    /// Those that the metadata name, by their numbers there, and then others that are bound.
    pub(super) shards: Vec<std::result::Result<Shard, Problem>>,
    /// The directory, as messages call it.
    pub(super) path: Option<PathBuf>,
    unprotected: Unprotected,
    copies: Copies,
}

/// A file that is not what it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) file: String,
    what: String,
}

impl Problem {
    pub(super) fn new(file: &str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), what: what.into() }
    }

    pub(super) fn error(&self) -> Error {
        Error::damaged(Place::record(&*self.file), &*self.what)
    }
}

/// A file beside another, or why it cannot be used.
type Opened = std::result::Result<Arc<dyn ReadAt>, Problem>;

/// Opens the file `name` beside `record`, which has to be as long as the commit says.
///
/// # Errors
/// [`Error::Io`]: nothing is known about the file then.
pub(super) fn beside(record: &dyn ReadAt, name: &str, bound: Option<&Bound>) -> Result<Opened> {
    if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
        let what = "this is not the name of a file in the same directory";
        return Ok(Err(Problem::new(name, what)));
    }
    let file = match record.beside(name) {
        Ok(file) => file,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => return Ok(Err(Problem::new(name, "the file is missing"))),
            io::ErrorKind::InvalidInput => {
                return Ok(Err(Problem::new(name, error.to_string())));
            }
            io::ErrorKind::Unsupported => {
                return Err(Error::not_a_checkpoint(
                    Place::default(),
                    "one file of a checkpoint that is a directory",
                    "open it by its path, with its shards in the same directory",
                ));
            }
            _ => return Err(Error::io("open a file of the checkpoint", error).in_part(name)),
        },
    };
    match bound {
        Some(bound) if bound.size != file.len() => {
            let what = format!("the file has {} bytes, not {}", file.len(), bound.size);
            Ok(Err(Problem::new(name, what)))
        }
        _ => Ok(Ok(file)),
    }
}

impl Shards {
    /// Opens all files at once, so that they can be read when their names are gone.
    pub(super) fn open(
        record: &dyn ReadAt,
        path: Option<PathBuf>,
        metadata: &Metadata,
        commit: Option<&Commit>,
        unprotected: Unprotected,
    ) -> Result<Self> {
        let mut shards = Vec::with_capacity(metadata.files.len());
        for name in &metadata.files {
            shards.push(match commit {
                Some(commit) => match commit.files.get(name) {
                    Some(bound) => bound_shard(record, name, bound)?,
                    None => Err(Problem::new(name, "the metadata name a file that is not bound")),
                },
                None => stock_shard(record, name)?,
            });
        }
        for (name, bound) in commit.iter().flat_map(|commit| &commit.files) {
            if matches!(bound.digest, Digest::Root(_)) && !metadata.files.contains(name) {
                shards.push(bound_shard(record, name, bound)?);
            }
        }
        Ok(Self { shards, path, unprotected, copies: Copies::default() })
    }

    /// The file of an item.
    pub(super) fn shard(&self, at: Location) -> Result<&Shard> {
        match self.shards.get(at.file) {
            Some(Ok(shard)) => Ok(shard),
            Some(Err(problem)) => Err(problem.error()),
            None => Err(Error::damaged(Place::default(), "an item is in no file")),
        }
    }

    pub(super) fn unprotected(&self) -> Unprotected {
        self.unprotected
    }

    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Adds the path of the directory to an error.
    pub(super) fn located(&self, error: Error) -> Error {
        match &self.path {
            Some(path) => error.at_path(path),
            None => error,
        }
    }

    /// Bytes of all files.
    pub(super) fn len(&self) -> u64 {
        self.shards.iter().flatten().map(|shard| shard.file.len()).sum()
    }
}

/// A shard whose root the commit binds.
fn bound_shard(
    record: &dyn ReadAt,
    name: &str,
    bound: &Bound,
) -> Result<std::result::Result<Shard, Problem>> {
    let Digest::Root(root) = &bound.digest else {
        return Ok(Err(Problem::new(name, "the commit does not bind it as a shard")));
    };
    let file = match beside(record, name, Some(bound))? {
        Ok(file) => file,
        Err(problem) => return Ok(Err(problem)),
    };
    Ok(match Index::read(&*file) {
        Ok(Some(index)) if format!("{:032x}", index.root()) == *root => {
            Ok(Shard { name: name.to_owned(), file, index: Some(index) })
        }
        Ok(Some(_)) => Err(Problem::new(name, "it is not the shard that was committed")),
        Ok(None) => Err(Problem::new(name, "the index of the shard is missing")),
        Err(Error::Damaged { detail, .. }) => Err(Problem::new(name, detail)),
        Err(error) => return Err(error.in_part(name)),
    })
}

/// A file of items that PyTorch wrote.
fn stock_shard(record: &dyn ReadAt, name: &str) -> Result<std::result::Result<Shard, Problem>> {
    let file = match beside(record, name, None)? {
        Ok(file) => file,
        Err(problem) => return Ok(Err(problem)),
    };
    if name.ends_with(".safetensors") {
        return Err(Error::unsupported(
            Place::record(name),
            "a distributed checkpoint of safetensors files",
            "open the safetensors files, or their index",
        ));
    }
    // Only a commit says which of the files that scai writes belong together.
    let is_ours = is_attempt(name) || !matches!(Index::read(&*file), Ok(None));
    if is_ours {
        let what = "scai wrote it, but no `commit.json` binds it: the checkpoint was never \
                    committed, or is being removed";
        return Ok(Err(Problem::new(name, what)));
    }
    Ok(Ok(Shard { name: name.to_owned(), file, index: None }))
}

/// Whether a file has a name that scai gives to shards: `<attempt>_<rank>_<i>.distcp`.
pub(super) fn is_attempt(name: &str) -> bool {
    attempt_in(name).is_some_and(|(_, rest)| rest.starts_with('_'))
}
