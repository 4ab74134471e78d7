//! Several files that make up one checkpoint: the members of an archive, the shards of an index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::any::CheckpointFile;
use super::kind::{self, foreign_zip};
use super::record::RecordSource;
use super::torch::{Member, members};
use super::{Origin, Protection, Unprotected};
use crate::error::{Error, Place, Result};
use crate::read_options::ReadOptions;
use crate::store::ReadAt;
use crate::tensor::Source;
use crate::value::{Dict, Value};

/// The extensions of archive members that may be checkpoints.
const EXTENSIONS: [&str; 8] = ["pt", "pth", "th", "ckpt", "bin", "pkl", "safetensors", "jit"];

/// Several files that make up one checkpoint.
#[derive(Debug)]
pub struct Bundle {
    parts: Vec<Part>,
    /// The file of each tensor, if there is an index; the members of an archive are read as a dict
    /// by their names.
    index: Option<Vec<(String, String)>>,
    len: u64,
    unprotected: Unprotected,
}

/// One of the files.
#[derive(Debug)]
struct Part {
    name: String,
    file: CheckpointFile,
    /// Its bytes in the archive, which have a checksum of their own.
    member: Option<Arc<RecordSource>>,
}

/// The content of a member, as a file.
#[derive(Debug)]
struct Section(Arc<RecordSource>);

impl ReadAt for Section {
    fn len(&self) -> u64 {
        self.0.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.0.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.file.read_at(self.0.data + offset, buf)
    }

    fn path(&self) -> Option<PathBuf> {
        self.0.file.path()
    }
}

impl Bundle {
    /// Opens the checkpoints in an archive that PyTorch did not write: a model of
    /// Stable-Baselines3, an archive of TorchServe.
    ///
    /// # Errors
    /// [`Error::NotACheckpoint`] if it holds none, and says what it is. `None` if it may be a
    /// damaged file of PyTorch.
    pub(super) fn archive(file: &Arc<dyn ReadAt>) -> Result<Option<Self>> {
        let Some(members) = members(&**file) else { return Ok(None) };
        let Some(foreign) = foreign_zip(&members) else { return Ok(None) };
        let mut parts = Vec::new();
        for member in members.iter().filter(|member| may_be_checkpoint(member)) {
            let source = member.content(file)?;
            let source = Arc::new(source);
            let section: Arc<dyn ReadAt> = Arc::new(Section(Arc::clone(&source)));
            match CheckpointFile::open_single(section, Unprotected::Accept) {
                Ok(file) => {
                    parts.push(Part { name: member.name.clone(), file, member: Some(source) })
                }
                Err(Error::NotACheckpoint { .. }) => {}
                Err(error) => return Err(error.in_part(&member.name)),
            }
        }
        if parts.is_empty() {
            return Err(foreign);
        }
        Ok(Some(Self { parts, index: None, len: file.len(), unprotected: Unprotected::Accept }))
    }

    /// Opens the shards beside `file`, whose content is `index`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a shard that is missing; as [`CheckpointFile::open`];
    /// [`Error::Damaged`] if a name leads elsewhere.
    pub(super) fn shards(
        index: Vec<(String, String)>,
        file: &Arc<dyn ReadAt>,
        unprotected: Unprotected,
    ) -> Result<Self> {
        let mut parts = Vec::new();
        for name in files_of(&index) {
            if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
                let what = format!(
                    "the index refers to `{name}`, which is not a file in the same directory"
                );
                return Err(Error::damaged(Place::default(), what));
            }
            let shard = file.beside(name).map_err(|error| missing(name, error))?;
            let file = CheckpointFile::open_single(shard, unprotected)
                .map_err(|error| error.in_part(name))?;
            parts.push(Part { name: name.to_owned(), file, member: None });
        }
        let len = parts.iter().map(|part| part.file.len()).sum();
        Ok(Self { parts, index: Some(index), len, unprotected })
    }

    /// Whether the files are the shards of an index.
    pub(super) fn is_sharded(&self) -> bool {
        self.index.is_some()
    }

    /// The length of all files in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.name.as_str())
    }

    /// The metadata of all files.
    pub(super) fn metadata(&self) -> BTreeMap<&str, &str> {
        self.parts.iter().flat_map(|part| part.file.foreign_metadata()).collect()
    }

    /// The weakest protection of the files.
    pub fn protection(&self) -> Protection {
        let of = |part: &Part| match part.member {
            Some(_) => Protection::Crc32,
            None => part.file.protection(),
        };
        self.parts.iter().map(of).min().unwrap_or(Protection::None)
    }

    /// Where the bytes of its files come from, as far as they say so.
    pub(super) fn origin(&self) -> Origin {
        let is_known = |part: &Part| part.file.origin() == Origin::Known;
        match self.protection() {
            Protection::None => Origin::Unprotected,
            Protection::Crc32 => Origin::Known,
            Protection::Digests if self.parts.iter().all(is_known) => Origin::Known,
            Protection::Digests => Origin::Unprotected,
        }
    }

    /// The state tree: of an archive, a dict of its members; of an index, of all tensors.
    ///
    /// # Errors
    /// As [`CheckpointFile::tree`]; [`Error::Damaged`] if the shards and the index disagree.
    pub fn tree(&self, read: &dyn Fn(&CheckpointFile) -> Result<Value>) -> Result<Value> {
        if self.protection() == Protection::None && self.unprotected == Unprotected::Refuse {
            return Err(Error::Unprotected { place: Box::default() });
        }
        let mut trees = HashMap::new();
        let mut dict = Dict::new();
        for part in &self.parts {
            if let Some(member) = &part.member
                && part.file.protection() == Protection::None
            {
                check(member)?;
            }
            let tree = read(&part.file).map_err(|error| error.in_part(&part.name))?;
            if self.index.is_none() {
                dict.insert(part.name.as_str(), tree);
            } else if let Some(shard) = tree.as_dict() {
                trees.insert(part.name.as_str(), shard.clone());
            } else {
                let what = "the shard is not a mapping of tensors";
                return Err(Error::damaged(Place::record(part.name.as_str()), what));
            }
        }
        for (name, shard) in self.index.iter().flatten() {
            let entries = trees.get(shard.as_str());
            let Some(value) = entries.and_then(|entries| entries.get(name)) else {
                let place = Place { tensor: Some(name.clone()), ..Place::record(shard.as_str()) };
                let what = "the index lists a tensor that is not in the shard: they belong to \
                            different checkpoints";
                return Err(Error::damaged(place, what));
            };
            dict.entries.push((Value::Str(name.clone()), value.clone()));
        }
        Ok(Value::Dict(dict))
    }

    /// Reads and checks every byte, and returns all damage.
    pub fn verify<'o>(&self, options: impl Into<ReadOptions<'o>>) -> Vec<Error> {
        let (options, mut damage) = (options.into(), Vec::new());
        for part in &self.parts {
            if let Some(member) = &part.member {
                damage.extend(check(member).err());
            }
            let found = part.file.verify(options).into_iter();
            damage.extend(found.map(|error| error.in_part(&part.name)));
        }
        damage
    }
}

/// The names of the shards that the index `file` (`….index.json`) names, sorted; `None` if it is
/// not an index. They are not opened.
pub fn shards(file: &dyn ReadAt) -> Option<Vec<String>> {
    let index = kind::index(file)?;
    Some(files_of(&index).into_iter().map(str::to_owned).collect())
}

fn files_of(index: &[(String, String)]) -> BTreeSet<&str> {
    index.iter().map(|(_, file)| file.as_str()).collect()
}

fn missing(name: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: name.into() },
        io::ErrorKind::Unsupported => Error::not_a_checkpoint(
            Place::default(),
            "the index of a sharded checkpoint",
            "open it by its path, with its shards in the same directory",
        ),
        _ => Error::io("open a shard of the index", error).in_part(name),
    }
}

fn may_be_checkpoint(member: &Member) -> bool {
    let extension = member.name.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// Compares a member of an archive with its CRC-32.
fn check(member: &RecordSource) -> Result<()> {
    member.read_at(0, &mut [])
}
