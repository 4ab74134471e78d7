//! Distributed checkpoints: directories of shards.

use std::path::Path;

use scai_checkpoint::codec::Digest;
use scai_checkpoint::codec::dcp::DistributedCheckpoint;
use scai_checkpoint::store::{COMMIT, Directory, LocalDirectory, METADATA, attempt_in, is_draft};
use scai_checkpoint::{Error, Result};
use serde::Serialize;

use crate::File;

/// What is known of a distributed checkpoint besides its state.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Distributed {
    /// Whether scai committed it; PyTorch commits nothing.
    pub committed: bool,
    /// When it was committed, ISO 8601 with offset.
    pub committed_at: Option<String>,
    /// The iteration that the commit says.
    pub iteration: Option<u64>,
    /// The processes that wrote it.
    pub world_size: Option<u64>,
    /// The files that belong to it.
    pub files: Vec<String>,
    /// Which file holds which part of the state, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<Vec<ShardPart>>,
}

/// Where a part of a tensor or a value is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShardPart {
    /// The path of the value.
    pub path: String,
    /// Where the region of the tensor begins, in each dimension; `None` for another value.
    pub offsets: Option<Vec<u64>>,
    /// The length of the region, in each dimension.
    pub sizes: Option<Vec<u64>>,
    /// The process that wrote it, if the name of the file says so.
    pub rank: Option<u64>,
    /// The file.
    pub file: String,
    /// Start and end of the bytes in the file.
    pub bytes: [u64; 2],
}

/// A file beside a checkpoint that does not belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unbound {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: &'static str,
}

impl Distributed {
    /// What is known of a file, if it is a distributed checkpoint.
    pub(crate) fn of(file: &File, with_shards: bool) -> Option<Self> {
        let directory = file.content().distributed()?;
        let commit = directory.commit();
        let ranks = || directory.parts().filter_map(|part| part.rank).max().map(|most| most + 1);
        let parts = directory.parts().map(|part| ShardPart {
            path: part.path,
            offsets: part.region.map(|(offsets, _)| offsets.to_vec()),
            sizes: part.region.map(|(_, sizes)| sizes.to_vec()),
            rank: part.rank,
            file: part.file.to_owned(),
            bytes: [part.offset, part.offset + part.len],
        });
        Some(Self {
            committed: commit.is_some(),
            committed_at: commit.map(|commit| commit.timestamp.clone()),
            iteration: commit.and_then(|commit| commit.iteration),
            world_size: match commit {
                Some(commit) => commit.world_size,
                None => ranks(),
            },
            files: directory.files().into_iter().map(str::to_owned).collect(),
            shards: with_shards.then(|| parts.collect()),
        })
    }
}

/// Whether the directory at `path` has a file that makes it a distributed checkpoint or a commit of files.
pub fn is_checkpoint_directory(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    path.is_dir() && (path.join(COMMIT).is_file() || path.join(METADATA).is_file())
}

/// The files in the directory of a checkpoint that do not belong to it, by name.
pub(crate) fn unbound(path: &Path, checkpoint: &DistributedCheckpoint) -> Result<Vec<Unbound>> {
    let at = |source| Error::io("list", source).at_path(path);
    let directory = LocalDirectory::open(path).map_err(at)?;
    let mut names: Vec<String> =
        directory.list().map_err(at)?.into_iter().map(|entry| entry.name).collect();
    names.extend(directory.unopenable().map_err(at)?);
    names.sort();
    let files = checkpoint.files();
    let mut found: Vec<Unbound> = names
        .iter()
        .filter(|name| !files.contains(&name.as_str()) && *name != METADATA)
        .map(|name| Unbound { name: name.clone(), what: what_is(name) })
        .collect();
    if let Some(commit) = checkpoint.commit() {
        let bound = commit.files.get(&format!("{}{METADATA}", commit.attempt));
        let what = match (bound, directory.open(METADATA)) {
            (_, Err(_)) => {
                Some("missing: PyTorch cannot load the checkpoint until it is written again")
            }
            (Some(bound), Ok(file)) => {
                let mut bytes = vec![0; usize::try_from(file.len()).unwrap_or_default()];
                let same = file.len() == bound.size
                    && file.read_at(0, &mut bytes).is_ok()
                    && bound.digest == Digest::of(&bytes);
                (!same).then_some("stale: not the metadata that were committed; scai ignores it, PyTorch loads it")
            }
            (None, Ok(_)) => None,
        };
        found.extend(what.map(|what| Unbound { name: METADATA.to_owned(), what }));
    }
    Ok(found)
}

fn what_is(name: &str) -> &'static str {
    let is_of_attempt = |(_, rest): (&str, &str)| rest.is_empty() || rest.starts_with(['_', '.']);
    if is_draft(name) {
        "temporary file of a writer"
    } else if attempt_in(name).is_some_and(is_of_attempt) {
        "of an attempt that no commit binds"
    } else {
        "foreign file"
    }
}
