//! One file to inspect.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use scai_checkpoint::codec::{CheckpointFile, Foreign, Origin, Protection, Unprotected};
use scai_checkpoint::file::{self, ReadOptions};
use scai_checkpoint::{Result, Value};

use crate::by_name::named;

/// An open file of any format, to be shown or compared.
///
/// It may carry no checksums ([`CheckpointFile::protection`] says whether it does), and objects that
/// only code could make are in its tree as the data they are made of.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    content: CheckpointFile,
    tree: OnceLock<Value>,
    /// The same with the parameters of optimizers by name.
    named: OnceLock<Value>,
}

impl File {
    /// Opens the file at `path`, or the distributed checkpoint that the directory at `path` is.
    ///
    /// # Errors
    /// As [`scai_checkpoint::file::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let content = file::open(&path, Unprotected::Accept)?;
        Ok(Self { path, content, tree: OnceLock::new(), named: OnceLock::new() })
    }

    /// The path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself: its format, its length, what protects it.
    pub fn content(&self) -> &CheckpointFile {
        &self.content
    }

    /// The state tree, read at the first call. Its tensors are read when they are used.
    ///
    /// # Errors
    /// As [`CheckpointFile::tree_with`].
    pub fn tree(&self) -> Result<&Value> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let tree = self.content.tree_with(Foreign::StandIn)?;
        Ok(self.tree.get_or_init(|| tree))
    }

    /// The state tree with the parameters of optimizers by name, as far as these are known.
    pub(crate) fn named_tree(&self) -> Result<&Value> {
        let tree = self.tree()?;
        Ok(self.named.get_or_init(|| named(tree)))
    }

    /// Whether the file has checksums, but was converted from one that had none.
    pub fn comes_unprotected(&self) -> bool {
        self.source_protection().is_some()
    }

    pub(crate) fn source_protection(&self) -> Option<Protection> {
        source_protection(Some(self.content.protection()), self.content.origin())
    }

    /// Reads every byte, and fails on the first that is wrong.
    pub(crate) fn check(&self, read: ReadOptions<'_>) -> Result<()> {
        let damage = self.content.verify(read);
        read.check()?;
        match damage.into_iter().next() {
            Some(error) => Err(error.at_path(&self.path)),
            None => Ok(()),
        }
    }
}

/// What protected the file that one was converted from, if that differs: nothing.
pub(crate) fn source_protection(
    protection: Option<Protection>,
    origin: Origin,
) -> Option<Protection> {
    let differs = origin == Origin::Unprotected && protection != Some(Protection::None);
    differs.then_some(Protection::None)
}
