//! A file of any format.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::bundle::Bundle;
use super::dcp::DistributedCheckpoint;
use super::kind;
use super::safetensors::{self, SafetensorsFile};
use super::torch::{self, Manifest, TorchFile};
use super::written::Written;
use super::{Foreign, Origin, Protection, Unprotected, in_file};
use crate::error::{Error, Result};
use crate::read_options::ReadOptions;
use crate::store::{ReadAt, WriteAt};
use crate::value::Value;

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// PyTorch's `.pt`: a zip archive.
    Torch,
    /// PyTorch's format before 1.6; read only.
    TorchLegacy,
    /// TorchScript, as `torch.jit.save` writes it; read only, without its code.
    TorchScript,
    /// safetensors.
    Safetensors,
    /// The shards of an index (`….index.json`); read only.
    Sharded,
    /// An archive that holds checkpoints, such as a model of Stable-Baselines3; read only.
    Archive,
    /// A directory of shards, as `torch.distributed.checkpoint` writes it.
    Distributed,
}

impl Format {
    /// The name that scripts see: `pt-legacy`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Torch => "pt",
            Format::TorchLegacy => "pt-legacy",
            Format::TorchScript => "torchscript",
            Format::Safetensors => "safetensors",
            Format::Sharded => "sharded",
            Format::Archive => "archive",
            Format::Distributed => "dcp",
        }
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Torch => "PyTorch",
            Format::TorchLegacy => "PyTorch before 1.6",
            Format::TorchScript => "TorchScript",
            Format::Safetensors => "safetensors",
            Format::Sharded => "shards of an index",
            Format::Archive => "archive of checkpoints",
            Format::Distributed => "PyTorch distributed checkpoint",
        })
    }
}

/// An open file. Its structure has been checked; its tensors are checked when they are read.
#[derive(Debug)]
pub enum CheckpointFile {
    /// A file of one of PyTorch's formats.
    Torch(Box<TorchFile>),
    /// A safetensors file.
    Safetensors(SafetensorsFile),
    /// Several files that make up one checkpoint.
    Bundle(Bundle),
    /// A directory of shards.
    Distributed(Box<DistributedCheckpoint>),
}

impl CheckpointFile {
    /// Opens a file; its format is recognised by its content.
    ///
    /// # Errors
    /// As [`TorchFile::open`] and [`SafetensorsFile::open`]; [`Error::NotACheckpoint`] for a file
    /// that is something else, and says what.
    pub fn open(file: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        in_file(&*file, Self::open_any(&file, unprotected))
    }

    /// As [`CheckpointFile::open`], to report all that is wrong: of several files, some may be missing.
    pub(crate) fn open_damaged(file: Arc<dyn ReadAt>) -> Result<Self> {
        if !DistributedCheckpoint::recognise(&*file) {
            return Self::open(file, Unprotected::Accept);
        }
        let opened = DistributedCheckpoint::open_damaged(file, Unprotected::Accept)?;
        Ok(Self::Distributed(Box::new(opened)))
    }

    fn open_any(file: &Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        if DistributedCheckpoint::recognise(&**file) {
            let opened = DistributedCheckpoint::open(Arc::clone(file), unprotected)?;
            return Ok(Self::Distributed(Box::new(opened)));
        }
        if let Some(index) = kind::index(&**file) {
            return Bundle::shards(index, file, unprotected).map(Self::Bundle);
        }
        match Self::open_single(Arc::clone(file), unprotected) {
            // Other zip files may have what a file of PyTorch must not.
            Err(error) if TorchFile::is_foreign_zip(&**file) => match Bundle::archive(file)? {
                Some(bundle) => Ok(Self::Bundle(bundle)),
                None => Err(error),
            },
            opened => opened,
        }
    }

    /// Opens a file that is a checkpoint by itself.
    pub(super) fn open_single(file: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        if SafetensorsFile::recognise(&*file) {
            return SafetensorsFile::open(file, unprotected).map(Self::Safetensors);
        }
        if !TorchFile::recognise(&*file)?
            && let Some(error) = kind::foreign(&*file)?
        {
            return Err(error);
        }
        Ok(Self::Torch(Box::new(TorchFile::open(file, unprotected)?)))
    }

    /// The format.
    pub fn format(&self) -> Format {
        match self {
            Self::Torch(file) if file.is_legacy() => Format::TorchLegacy,
            Self::Torch(file) if file.is_script() => Format::TorchScript,
            Self::Torch(_) => Format::Torch,
            Self::Safetensors(_) => Format::Safetensors,
            Self::Bundle(bundle) if bundle.is_sharded() => Format::Sharded,
            Self::Bundle(_) => Format::Archive,
            Self::Distributed(_) => Format::Distributed,
        }
    }

    /// The open file itself, to map a `.pt` file into memory.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Torch(file) => file.descriptor(),
            Self::Safetensors(_) | Self::Bundle(_) | Self::Distributed(_) => None,
        }
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Torch(file) => file.len(),
            Self::Safetensors(file) => file.len(),
            Self::Bundle(bundle) => bundle.len(),
            Self::Distributed(directory) => directory.len(),
        }
    }

    /// Whether the file is empty, which no valid file is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What protects the file against damage.
    pub fn protection(&self) -> Protection {
        match self {
            Self::Torch(file) => file.protection(),
            Self::Safetensors(file) => file.protection(),
            Self::Bundle(bundle) => bundle.protection(),
            Self::Distributed(directory) => directory.protection(),
        }
    }

    /// Where its bytes come from, as far as the file says so.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Torch(file) => file.origin(),
            Self::Safetensors(file) => file.origin(),
            Self::Bundle(bundle) => bundle.origin(),
            Self::Distributed(directory) => directory.origin(),
        }
    }

    /// What a `.pt` file says about itself, if this crate wrote it.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Torch(file) => file.manifest(),
            Self::Safetensors(_) | Self::Bundle(_) | Self::Distributed(_) => None,
        }
    }

    /// The directory of shards that it is.
    pub fn distributed(&self) -> Option<&DistributedCheckpoint> {
        match self {
            Self::Distributed(directory) => Some(directory),
            _ => None,
        }
    }

    /// The notes that were saved beside the tree, which only files of this crate can hold.
    ///
    /// # Errors
    /// As [`TorchFile::notes`].
    pub fn notes(&self) -> Result<Option<String>> {
        match self {
            Self::Torch(file) => file.notes(),
            Self::Safetensors(file) => Ok(file.notes().map(str::to_owned)),
            Self::Bundle(_) => Ok(None),
            Self::Distributed(directory) => directory.notes(),
        }
    }

    /// What another program put into the header of a safetensors file besides the tensors, which
    /// is not part of the state tree.
    pub fn foreign_metadata(&self) -> BTreeMap<&str, &str> {
        match self {
            Self::Safetensors(file) => file.metadata(),
            Self::Bundle(bundle) => bundle.metadata(),
            Self::Torch(_) | Self::Distributed(_) => BTreeMap::new(),
        }
    }

    /// The state tree. Its tensors remain on disk; they are read and checked when they are used.
    ///
    /// # Errors
    /// As [`TorchFile::tree`] and [`SafetensorsFile::tree`].
    pub fn tree(&self) -> Result<Value> {
        self.tree_with(Foreign::Refuse)
    }

    /// As [`CheckpointFile::tree`], where `foreign` says what happens to objects that only code
    /// could make.
    ///
    /// # Errors
    /// As [`CheckpointFile::tree`].
    pub fn tree_with(&self, foreign: Foreign) -> Result<Value> {
        match self {
            Self::Torch(file) => file.tree_with(foreign),
            Self::Safetensors(file) => file.tree(),
            Self::Bundle(bundle) => bundle.tree(&|file| file.tree_with(foreign)),
            Self::Distributed(directory) => directory.tree_with(foreign),
        }
    }

    /// Reads and checks every byte, and returns all damage: each with the record or tensor and the
    /// location. Takes little memory, however long the file is. If it is cancelled, the first error
    /// is [`Error::Cancelled`].
    ///
    /// What [`CheckpointFile::tree`] returns, before or after, is read through the same open file.
    /// Tensors are checked again when they are used, chunk by chunk; a record with a single
    /// checksum is not read whole again.
    pub fn verify<'o>(&self, options: impl Into<ReadOptions<'o>>) -> Vec<Error> {
        let options = options.into();
        match self {
            Self::Torch(file) => file.verify(options),
            Self::Safetensors(file) => file.verify(options),
            Self::Bundle(bundle) => bundle.verify(options),
            Self::Distributed(directory) => directory.verify(options),
        }
    }
}

/// A file of either format that is ready to be written.
#[derive(Debug)]
pub enum Plan {
    /// A `.pt` file.
    Torch(torch::TorchPlan),
    /// A safetensors file.
    Safetensors(safetensors::SafetensorsPlan),
}

impl Plan {
    /// Plans the file for a state tree.
    ///
    /// # Errors
    /// As [`torch::TorchPlan::new`] and [`safetensors::SafetensorsPlan::new`]; [`Error::Invalid`] for the legacy
    /// format, which is not written.
    pub fn new(tree: &Value, format: Format) -> Result<Self> {
        Self::with_notes(tree, None, format)
    }

    /// Plans the file for a state tree and notes, as [`torch::TorchPlan::with_notes`].
    ///
    /// # Errors
    /// As [`Plan::new`] and [`torch::TorchPlan::with_notes`].
    pub fn with_notes(tree: &Value, notes: Option<&str>, format: Format) -> Result<Self> {
        Self::converted(tree, notes, Origin::Known, format)
    }

    /// Plans the file for a state tree that comes from another file, as [`Plan::with_notes`]; what
    /// comes from a file without checksums is marked, and `verify` and `show` say so.
    ///
    /// # Errors
    /// As [`Plan::with_notes`].
    pub fn converted(
        tree: &Value,
        notes: Option<&str>,
        origin: Origin,
        format: Format,
    ) -> Result<Self> {
        match format {
            Format::Torch => torch::TorchPlan::converted(tree, notes, origin).map(Self::Torch),
            Format::Distributed => Err(Error::invalid(
                "a distributed checkpoint is a directory: write it with `file::write_distributed`",
            )),
            Format::TorchLegacy | Format::TorchScript | Format::Sharded | Format::Archive => {
                Err(Error::invalid(format!("the format `{format}` can be read but not written")))
            }
            Format::Safetensors => {
                let plan = safetensors::SafetensorsPlan::converted(tree, origin)?;
                plan.with_metadata(notes, []).map(Self::Safetensors)
            }
        }
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Torch(plan) => plan.len(),
            Self::Safetensors(plan) => plan.len(),
        }
    }

    /// Always false: no file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all bytes of the file, each once, on `threads` threads.
    ///
    /// # Errors
    /// The first error of `file` or of a storage, with the affected tensor.
    pub fn write(self, threads: usize, file: &dyn WriteAt) -> Result<Written> {
        match self {
            Self::Torch(plan) => plan.write(threads, file),
            Self::Safetensors(plan) => plan.write(threads, file),
        }
    }
}
