//! Files read to the last byte.

use std::path::{Path, PathBuf};

use scai_checkpoint::codec::{Protection, Unprotected};
use scai_checkpoint::file::{self, ReadOptions};
use scai_checkpoint::folder;
use scai_checkpoint::store::{Directory, LocalDirectory, is_draft, is_url};
use scai_checkpoint::verify::{Answers, Condition, Verification};
use scai_checkpoint::{CheckpointManager, Error, Options, Result};
use serde::{Serialize, Serializer};

use crate::distributed::{Unbound, is_checkpoint_directory, unbound};
use crate::file::source_protection;
use crate::others::{is_index, others};

/// What verifying a file found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// The path, as it was given.
    pub path: String,
    /// Bytes of the file; of an index, those of its shards.
    pub size: u64,
    /// Every byte was checked and is right, and a state can be built from it.
    pub sound: bool,
    /// What was found, in one word.
    pub condition: Condition,
    /// What protects the file, if it could be opened.
    pub protection: Option<Protection>,
    /// [`Protection::None`] if it was converted from a file without checksums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_protection: Option<Protection>,
    /// The iteration recorded in the file.
    pub iteration: Option<i64>,
    /// The results of the short checks.
    #[serde(flatten)]
    pub answers: Answers,
    /// Everything that is wrong; a lack of checksums is included.
    pub damage: Vec<Finding>,
    /// Why no state can be built from a file whose bytes are right. JSON has the message alone.
    #[serde(serialize_with = "message")]
    pub obstacle: Option<Finding>,
    /// Files beside a distributed checkpoint that do not belong to it. They are not damage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unbound: Vec<Unbound>,
    /// It is a distributed checkpoint.
    #[serde(skip)]
    pub is_distributed: bool,
}

/// One thing that was found in a file.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The error in words, with the file it is in.
    pub message: String,
    /// The affected tensor.
    pub tensor: Option<String>,
    /// The affected record.
    pub record: Option<String>,
    /// Start and end of the affected bytes.
    pub bytes: Option<[u64; 2]>,
    /// The message without the file it is in, for a report that names the file itself.
    #[serde(skip)]
    pub detail: String,
    /// The condition that this puts the file in.
    #[serde(skip)]
    pub condition: Condition,
}

fn message<S: Serializer>(finding: &Option<Finding>, serializer: S) -> Result<S::Ok, S::Error> {
    finding.as_ref().map(|finding| &finding.message).serialize(serializer)
}

/// Reads every byte of the file at `path`, or of the files that the directory at `path` was committed with,
/// and reports all that is wrong.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened; [`Error::Cancelled`]. One that does not exist is
/// reported, not an error.
pub fn verify<'o>(
    path: impl AsRef<Path>,
    options: impl Into<ReadOptions<'o>>,
) -> Result<VerifyReport> {
    let path = path.as_ref();
    if !path.is_dir() {
        return Ok(report(path, file::verify(path, options)?));
    }
    let commit = folder::commit_of(path);
    let is_of_files = |commit: &Option<folder::Commit>| {
        commit.as_ref().is_some_and(|commit| commit.kind == folder::Kind::Files)
    };
    if commit.as_ref().is_ok_and(is_of_files) || !is_checkpoint_directory(path) {
        return directory_report(path, options.into());
    }
    let mut report = report(path, file::verify(path, options)?);
    report.is_distributed = true;
    if report.protection.is_some()
        && let Ok(opened) = file::open(path, Unprotected::Accept)
        && let Some(checkpoint) = opened.distributed()
    {
        report.unbound = unbound(path, checkpoint)?;
    }
    Ok(report)
}

/// What verifying a committed directory of files found.
fn directory_report(path: &Path, options: ReadOptions<'_>) -> Result<VerifyReport> {
    let (commit, damage) = match folder::commit_of(path) {
        Ok(Some(commit)) => (Some(commit), folder::verify(path, options)?),
        Ok(None) => (None, folder::verify(path, options)?),
        Err(error) if error.is_damage() => (None, vec![error]),
        Err(error) => return Err(error),
    };
    let sound = damage.is_empty();
    let sizes = commit.iter().flat_map(|commit| commit.files.values()).map(|file| file.size);
    Ok(VerifyReport {
        path: path.display().to_string(),
        size: sizes.sum(),
        sound,
        condition: if sound { Condition::Sound } else { Condition::Damaged },
        protection: Some(Protection::Digests),
        source_protection: None,
        iteration: commit.and_then(|commit| commit.iteration?.try_into().ok()),
        answers: Answers { exists: true, readable: sound, ..Answers::default() },
        damage: damage.into_iter().map(Finding::of).collect(),
        obstacle: None,
        unbound: Vec::new(),
        is_distributed: false,
    })
}

fn report(path: &Path, verification: Verification) -> VerifyReport {
    VerifyReport {
        path: path.display().to_string(),
        size: verification.len,
        sound: verification.is_sound(),
        condition: verification.condition(),
        protection: verification.protection,
        source_protection: source_protection(verification.protection, verification.origin),
        iteration: verification.iteration,
        answers: verification.answers,
        damage: verification.damage.into_iter().map(Finding::of).collect(),
        obstacle: verification.obstacle.map(Finding::of),
        unbound: Vec::new(),
        is_distributed: false,
    }
}

impl Finding {
    fn of(error: Error) -> Self {
        let place = error.place().cloned().unwrap_or_default();
        Self {
            message: error.to_string(),
            tensor: place.tensor,
            record: place.record,
            bytes: place.bytes.map(|bytes| [bytes.start, bytes.end]),
            condition: Condition::of(&error),
            detail: error.without_path().to_string(),
        }
    }
}

/// A file to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path: below the directory, as that was given.
    pub path: PathBuf,
    /// Bytes that verifying it reads.
    pub size: u64,
}

/// What `path` stands for: all checkpoints and other files of a directory, or the one file or committed
/// directory.
///
/// # Errors
/// [`Error::Io`] if a directory cannot be listed.
pub fn targets(path: impl AsRef<Path>) -> Result<Vec<Target>> {
    let path = path.as_ref();
    if is_checkpoint_directory(path) {
        return Ok(vec![directory_target(path)]);
    }
    if path.is_dir() || is_url(path) {
        let listed = CheckpointManager::open(path, Options::default())?.list()?.into_iter();
        let listed = listed.map(|listed| (listed.name, listed.size));
        let found = listed.chain(others(path)?.into_iter().map(|other| (other.name, other.size)));
        let mut targets: Vec<Target> =
            found.map(|(name, size)| Target { path: path.join(name), size }).collect();
        // Those of shards are in the list, and those of other programs are not.
        if is_url(path) {
            // Otherwise it is the checkpoint itself.
            let itself = Target { path: path.to_owned(), size: 0 };
            return Ok(if targets.is_empty() { vec![itself] } else { targets });
        }
        let mut more = committed(path)?;
        more.retain(|one| !targets.iter().any(|known| known.path == one.path));
        targets.extend(more);
        return Ok(targets);
    }
    let size = path.metadata().map_or(0, |metadata| metadata.len());
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_index(name));
    // For an index, the size of its shards.
    let index = match (name, path.parent()) {
        (Some(name), Some(parent)) => {
            let directory = if parent == Path::new("") { Path::new(".") } else { parent };
            others(directory)?.into_iter().find(|other| other.name == name)
        }
        _ => None,
    };
    Ok(vec![Target { path: path.to_owned(), size: index.map_or(size, |index| index.size) }])
}

/// The directories that are checkpoints in `path`, in the order of the numbers in their names.
fn committed(path: &Path) -> Result<Vec<Target>> {
    let at = |source| Error::io("list", source).at_path(path);
    let children = LocalDirectory::open(path).and_then(|opened| opened.children()).map_err(at)?;
    let mut found: Vec<Target> = children
        .into_iter()
        .filter(|name| !is_draft(name))
        .map(|name| path.join(name))
        .filter(|path| is_checkpoint_directory(path))
        .map(|path| directory_target(&path))
        .collect();
    let number = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        name[name.len() - digits..].parse::<u64>().ok()
    };
    found.sort_by(|a, b| (number(&a.path), &a.path).cmp(&(number(&b.path), &b.path)));
    Ok(found)
}

fn directory_target(path: &Path) -> Target {
    // What is wrong with the commit is found when it is verified.
    let commit = folder::commit_of(path).ok().flatten();
    let bound = |commit: &folder::Commit| commit.files.values().map(|file| file.size).sum();
    let size = commit.as_ref().map_or_else(
        || file::open(path, Unprotected::Accept).map_or(0, |opened| opened.len()),
        bound,
    );
    Target { path: path.to_owned(), size }
}
