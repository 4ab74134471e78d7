//! What a directory holds.

use std::path::Path;

use scai_checkpoint::codec::{Format, Unprotected};
use scai_checkpoint::file::{self, ReadOptions};
use scai_checkpoint::manager::Listed;
use scai_checkpoint::verify::{Condition, Verification};
use scai_checkpoint::{CheckpointManager, Error, Result};
use serde::{Serialize, Serializer};

use crate::distributed::is_checkpoint_directory;
use crate::others::{Other, others};

/// The name of a directory that is a checkpoint itself.
const ITSELF: &str = ".";

/// The checkpoints of a directory, and the other files in it that look like checkpoints.
///
/// It serialises as one sequence: other files first, so that the newest checkpoint is the last.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listing {
    /// The checkpoints, by iteration.
    pub checkpoints: Vec<CheckpointRow>,
    /// Other files, by name.
    pub others: Vec<OtherFile>,
}

/// A checkpoint of an iteration.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CheckpointRow {
    /// What the beginning of the file shows.
    #[serde(flatten)]
    pub checkpoint: Listed,
    /// Whether every byte is right; `None` until [`Listing::verify`].
    pub verified: Option<bool>,
}

/// A file that is not a checkpoint of an iteration.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct OtherFile {
    /// The file's name.
    pub name: String,
    /// Always `None`: a program that sorts checkpoints by it keeps these files apart.
    iteration: Option<u64>,
    /// Bytes of the file; of an index, those of its shards.
    pub size: u64,
    /// The format, if the file could be opened.
    pub format: Option<Format>,
    /// The files that an index names.
    pub shards: Vec<String>,
    /// What is wrong with it, as far as it was read.
    pub problem: Option<String>,
    /// The condition that the problem puts the file in.
    pub condition: Option<Condition>,
    /// Whether every byte is right; `None` until [`Listing::verify`].
    pub verified: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Other(&'a OtherFile),
    Checkpoint(&'a CheckpointRow),
}

/// Lists what a manager's directory holds. Reads only the beginning of each file.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be listed. What is wrong with
/// a file is in the listing.
pub fn list(manager: &CheckpointManager) -> Result<Listing> {
    let row = |checkpoint| CheckpointRow { checkpoint, verified: None };
    let checkpoints = manager.list()?.into_iter().map(row).collect();
    let directory = manager.directory();
    let itself = OtherFile::of_directory(&directory);
    let others = others(&directory)?.into_iter().map(|other| {
        let (format, error) = match file::open(directory.join(&other.name), Unprotected::Accept) {
            Ok(file) => (Some(file.format()), file.tree().err()),
            Err(error) => (None, Some(error)),
        };
        OtherFile::new(other, format, error)
    });
    Ok(Listing { checkpoints, others: itself.into_iter().chain(others).collect() })
}

impl OtherFile {
    fn new(other: Other, format: Option<Format>, error: Option<Error>) -> Self {
        Self {
            name: other.name,
            iteration: None,
            size: other.size,
            format,
            shards: other.shards,
            condition: error.as_ref().map(Condition::of),
            problem: error.map(|error| error.without_path().to_string()),
            verified: None,
        }
    }

    /// The directory itself, if it is a distributed checkpoint.
    fn of_directory(directory: &Path) -> Option<Self> {
        if !is_checkpoint_directory(directory) {
            return None;
        }
        let opened = file::open(directory, Unprotected::Accept);
        let files = opened.as_ref().ok().and_then(|opened| opened.distributed());
        let files = files.map(|checkpoint| checkpoint.files()).unwrap_or_default();
        let shards = files.into_iter().filter(|name| name.ends_with(".distcp"));
        let shards = shards.map(str::to_owned).collect();
        let (size, format, error) = match &opened {
            Ok(file) => (file.len(), Some(file.format()), file.tree().err()),
            Err(_) => (0, None, None),
        };
        let itself = Other { name: ITSELF.to_owned(), size, shards };
        Some(Self::new(itself, format, opened.err().or(error)))
    }
}

impl Listing {
    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        let checkpoints = self.checkpoints.iter().map(|row| row.checkpoint.size);
        checkpoints.chain(self.others.iter().map(|other| other.size)).sum()
    }

    /// Reads every byte of every file and notes which are sound.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be opened;
    /// [`Error::Cancelled`].
    pub fn verify<'o>(
        &mut self,
        manager: &CheckpointManager,
        options: impl Into<ReadOptions<'o>>,
    ) -> Result<()> {
        let options = options.into();
        for OtherFile { name, problem, condition, verified, .. } in &mut self.others {
            let verification = match name.as_str() {
                ITSELF => file::verify(manager.directory(), options)?,
                name => manager.verify_with(name, options)?,
            };
            note(verification, problem, condition, verified);
        }
        for CheckpointRow { checkpoint, verified } in &mut self.checkpoints {
            let verification = manager.verify_with(&*checkpoint.name, options)?;
            note(verification, &mut checkpoint.problem, &mut checkpoint.condition, verified);
        }
        Ok(())
    }
}

/// Notes what a verification found: it may know a problem better than the beginning did.
fn note(
    verification: Verification,
    problem: &mut Option<String>,
    condition: &mut Option<Condition>,
    verified: &mut Option<bool>,
) {
    let found = verification.condition();
    *verified = Some(verification.is_sound());
    if let Some(error) = verification.damage.into_iter().next().or(verification.obstacle) {
        *problem = Some(error.without_path().to_string());
        *condition = Some(found);
    }
}

impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let checkpoints = self.checkpoints.iter().map(Row::Checkpoint);
        serializer.collect_seq(self.others.iter().map(Row::Other).chain(checkpoints))
    }
}
