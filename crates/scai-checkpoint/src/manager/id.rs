//! Which checkpoint of a directory is meant.

use std::path::{Path, PathBuf};

use super::{Shared, name};
use crate::error::{Error, Result};

/// A checkpoint of a directory, by its iteration or by the path of its file.
///
/// Numbers and paths convert into it: `manager.load(100, …)`, `manager.load(path, …)`. A path
/// without a directory names a file in the manager's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointId {
    /// The checkpoint of this iteration.
    Iteration(u64),
    /// The file at this path, which must be in the manager's directory.
    Path(PathBuf),
}

impl From<u64> for CheckpointId {
    fn from(iteration: u64) -> Self {
        Self::Iteration(iteration)
    }
}

macro_rules! from_paths {
    ($($path:ty),*) => {
        $(impl From<$path> for CheckpointId {
            fn from(path: $path) -> Self {
                Self::Path(path.into())
            }
        })*
    };
}

from_paths!(PathBuf, &PathBuf, &Path, String, &String, &str);

impl Shared {
    /// The name of its file, which need not exist if it was given as a path.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no checkpoint of the iteration; [`Error::Invalid`] for a path
    /// that leads out of the directory.
    pub(super) fn name_of(&self, id: CheckpointId) -> Result<String> {
        match id {
            CheckpointId::Iteration(iteration) => Ok(self.named(iteration)?.name),
            CheckpointId::Path(path) => self.store.name_at(&path).ok_or_else(|| {
                Error::invalid(format!(
                    "`{}` is not in this manager's directory `{}`; read it with `file::open` \
                     instead",
                    path.display(),
                    self.store.describe()
                ))
            }),
        }
    }

    /// The name of a checkpoint that exists.
    ///
    /// # Errors
    /// As [`Shared::name_of`]; [`Error::NotFound`]; [`Error::Invalid`] for a file that is not called like
    /// a checkpoint, such as `latest.pt`.
    pub(super) fn checkpoint_at(&self, id: CheckpointId) -> Result<String> {
        let name = self.name_of(id)?;
        drop(self.open(&name)?);
        if name::iteration(&name).is_some() {
            return Ok(name);
        }
        let path = self.path(&name);
        let path = path.display();
        Err(Error::invalid(match name.as_str() {
            name::LATEST => format!(
                "`{path}` is an alias of the newest checkpoint; use its iteration, or its own name \
                 `checkpoint_iter_….pt`"
            ),
            _ => format!("`{path}` is not named like a checkpoint (`checkpoint_iter_….pt`)"),
        }))
    }

    /// The checkpoint of an iteration.
    pub(super) fn named(&self, iteration: u64) -> Result<name::Named> {
        let found = name::checkpoints(&self.entries()?).into_iter().rev();
        let missing = || Error::NotFound { path: self.path(&name::checkpoint(iteration)) };
        found.into_iter().find(|named| named.iteration == iteration).ok_or_else(missing)
    }
}
