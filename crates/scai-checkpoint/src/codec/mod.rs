//! File formats. A codec turns a state tree into bytes at offsets and back; it sees no path and
//! opens no file.

mod any;
mod binding;
mod buffer;
mod bundle;
pub mod dcp;
mod digest;
mod kind;
mod pass;
mod record;
pub mod safetensors;
mod secret;
pub mod torch;
mod written;

use serde::Serialize;

use crate::error::Result;
use crate::store::ReadAt;

pub use any::{CheckpointFile, Format, Plan};
pub(crate) use binding::read as read_commit;
pub use binding::{Bound, COMMIT, Commit, Digest, Kind};
pub(crate) use buffer::MEMORY;
pub use bundle::shards;
pub(crate) use dcp::METADATA;
pub(crate) use kind::foreign;
pub use written::{Written, WrittenTensor};

/// Adds the path of the file to its error.
pub(crate) fn in_file<T>(file: &dyn ReadAt, result: Result<T>) -> Result<T> {
    result.map_err(|error| match file.path() {
        Some(path) => error.at_path(path),
        None => error,
    })
}

/// What protects a file against damage. Scripts see `none`, `crc32` and `digests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Nothing: no checksums were written.
    None,
    /// A CRC-32 for each record, as torch writes.
    Crc32,
    /// A digest for each chunk and one for the structure of the file, as this crate writes.
    Digests,
}

/// Where the bytes of a file come from. Its digests show that they are still those that were
/// written, not that those were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// A program's state, or a file in which damage would have been detected.
    #[default]
    Known,
    /// A file without checksums, possibly several conversions ago.
    Unprotected,
}

/// What happens to objects that only code named in the file could make. That code is never run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Foreign {
    /// They are an error that names their classes.
    #[default]
    Refuse,
    /// A [`crate::value::Object`] stands in for each: its class, and the data that it is made of.
    StandIn,
}

/// Whether files without any checksums are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unprotected {
    /// They are an error: damage could not be detected.
    #[default]
    Refuse,
    /// They are read as they are.
    Accept,
}
