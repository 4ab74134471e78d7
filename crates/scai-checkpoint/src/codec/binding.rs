//! `commit.json`: what a directory was committed as, and the digests that bind its files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::torch::Fields;
use crate::error::{Error, Place, Result};
use crate::sealed::{self, Sealed};
pub use crate::store::COMMIT;
use crate::store::{ReadAt, check_name};

const VERSION: u32 = 1;

/// A record is read into memory; a longer one was not written here.
const LONGEST: u64 = 1 << 30;

/// What a directory was committed as.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Commit {
    /// `scai`.
    pub format: String,
    /// The version of this record.
    pub version: u32,
    /// What its files are.
    pub kind: Kind,
    /// The iteration, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iteration: Option<u64>,
    /// 32 hexadecimal digits that no other commit has.
    pub attempt: String,
    /// When it was committed, ISO 8601 with offset.
    pub timestamp: String,
    /// What the writer says of itself, such as the framework and its version.
    #[serde(default)]
    pub about: BTreeMap<String, String>,
    /// The processes that wrote it, of [`Kind::Shards`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world_size: Option<u64>,
    /// The training statistics that are short, of [`Kind::Shards`].
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    pub training_stats: Fields,
    /// The metadata that are short, of [`Kind::Shards`].
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    pub metadata: Fields,
    /// The files that belong to it, by their names with slashes.
    pub files: BTreeMap<String, Bound>,
}

/// What the files of a commit are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Files of other programs, with names of their own.
    Files,
    /// The shards of a state that several processes have written, readable as a checkpoint of
    /// `torch.distributed.checkpoint`.
    Shards,
}

/// A file that belongs to a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bound {
    /// Its length in bytes.
    pub size: u64,
    /// What binds its bytes.
    #[serde(flatten)]
    pub digest: Digest,
}

/// What binds the bytes of a file, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Digest {
    /// The XXH3-128 digest of all bytes, as `xxhsum -H2` prints it.
    Xxh3_128(String),
    /// The root of a shard, which binds the digests in it: [`dcp::Index::root`](super::dcp::Index::root).
    Root(String),
}

impl Digest {
    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Xxh3_128(sealed::digest(bytes))
    }
}

impl Bound {
    /// A file of `size` bytes whose XXH3-128 digest is this.
    pub fn whole(size: u64, digest: u128) -> Self {
        Self { size, digest: Digest::Xxh3_128(format!("{digest:032x}")) }
    }

    /// The digest, in hexadecimal, whatever it is of.
    pub fn root(&self) -> &str {
        match &self.digest {
            Digest::Xxh3_128(digest) | Digest::Root(digest) => digest,
        }
    }

    /// A shard of `size` bytes with this root.
    pub fn shard(size: u64, root: u128) -> Self {
        Self { size, digest: Digest::Root(format!("{root:032x}")) }
    }
}

impl Commit {
    /// A record of files that was made at `timestamp`.
    pub(crate) fn new(
        kind: Kind,
        attempt: String,
        timestamp: String,
        files: BTreeMap<String, Bound>,
    ) -> Self {
        Self {
            format: "scai".to_owned(),
            version: VERSION,
            kind,
            iteration: None,
            attempt,
            timestamp,
            about: BTreeMap::new(),
            world_size: None,
            training_stats: Fields::default(),
            metadata: Fields::default(),
            files,
        }
    }

    /// The bytes of the file. Its last line has the digest of all bytes before that line's name.
    pub(crate) fn encode(&self) -> Vec<u8> {
        sealed::seal(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let commit: Self = sealed::open(bytes, "commit", VERSION)?;
        let is_name = |name: &String| name.split('/').all(|part| check_name(part).is_ok());
        match commit.files.keys().find(|name| !is_name(name)) {
            Some(name) => {
                let what = format!("{name:?} cannot be the name of a file");
                Err(Error::damaged(Place::default(), what))
            }
            None => Ok(commit),
        }
    }
}

impl Sealed for Commit {
    fn version(&self) -> u32 {
        self.version
    }
}

/// Reads the record.
pub(crate) fn read(file: &dyn ReadAt) -> Result<Commit> {
    if file.len() > LONGEST {
        return Err(Error::damaged(Place::default(), "the record of the commit is too long"));
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).map_err(|error| Error::io("read", error))?;
    Commit::decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(files: &[(&str, u64)]) -> Commit {
        let bound = |(name, size): &(&str, u64)| ((*name).to_owned(), Bound::whole(*size, 7));
        let files = files.iter().map(bound).collect();
        Commit {
            iteration: Some(7),
            about: [("framework".to_owned(), "a \"name\"\n}".to_owned())].into(),
            ..Commit::new(Kind::Files, "1".repeat(32), "2026-01-01T00:00:00Z".to_owned(), files)
        }
    }

    #[test]
    fn a_record_comes_back_and_is_json() {
        for files in [&[][..], &[("a", 1)], &[("a/b.bin", u64::MAX), ("c", 0)]] {
            let commit = commit(files);
            let bytes = commit.encode();
            assert_eq!(Commit::decode(&bytes).unwrap(), commit);
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(json["digest"].as_str().unwrap().len(), sealed::DIGITS);
            assert_eq!(json["files"].as_object().unwrap().len(), files.len());
        }
    }

    #[test]
    fn any_other_byte_is_noticed() {
        let bytes = commit(&[("a", 1)]).encode();
        for i in 0..bytes.len() {
            let mut other = bytes.clone();
            other[i] ^= 1;
            assert!(Commit::decode(&other).unwrap_err().is_damage(), "byte {i}");
            assert!(Commit::decode(&bytes[..i]).unwrap_err().is_damage(), "cut at {i}");
        }
    }

    #[test]
    fn what_leads_out_of_the_directory_is_refused() {
        for name in ["../a", "a/../../b", "/a", "", "a//b", "a/."] {
            let bytes = commit(&[(name, 1)]).encode();
            assert!(Commit::decode(&bytes).unwrap_err().to_string().contains("cannot be the name"));
        }
    }

    #[test]
    fn a_newer_version_is_no_damage() {
        let newer = Commit { version: 2, ..commit(&[]) };
        let error = Commit::decode(&newer.encode()).unwrap_err();
        assert!(error.to_string().contains("upgrade"), "{error}");
    }
}
