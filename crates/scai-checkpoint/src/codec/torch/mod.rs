//! PyTorch's `.pt` files: what `torch.save` writes and `torch.load` reads.
//!
//! # The file
//!
//! A zip archive of stored records, all inside one folder:
//!
//! ```text
//! archive/.scai/manifest.json   what the file is (torch ignores it)
//! archive/data.pkl              the state tree, as a pickle of protocol 2
//! archive/byteorder             "little"
//! archive/data/0 …              one storage each, raw bytes, at a multiple of 64 or 4096
//! archive/version               "3\n"
//! archive/.scai/notes           what a binding keeps beside the tree, if anything
//! archive/.scai/digests         XXH3-128 of every 64 KiB of every record above
//! central directory             names, offsets, sizes, CRC-32
//! end record                    with the comment "scai-root:" and 32 hexadecimal digits
//! ```
//!
//! The digest table covers the content of all records. The root in the comment covers the table,
//! every local header, the central directory, the end record and the length of the file. So every
//! byte is covered, and a block that was swapped with another or is left from an older file does
//! not match the digest of its position.
//!
//! All sizes are known before the first byte is written, so every offset is planned first
//! ([`TorchPlan`]), and the bytes are then written in any order by several threads.
//!
//! A file without a manifest, as torch writes it, is checked against the CRC-32 of each record.
//! Files in torch's format before 1.6, and files written with `set_crc32_options(False)`, carry no
//! checksums ([`Protection::None`]) and are read only if that is accepted.

mod fields;
mod file;
mod legacy;
mod manifest;
mod pickle;
mod plan;
mod zip;

pub use super::{Foreign, Protection, Unprotected};
pub use fields::Fields;
pub use file::{TorchFile, peek};
pub(super) use legacy::is_plain_pickle;
pub use manifest::Manifest;
pub use plan::TorchPlan;
pub(super) use zip::members::{Member, members};
pub(crate) use zip::read::UNRECOGNIZED;

use crate::error::{Error, Place, Result};
use crate::value::Value;

/// The tree of a plain pickle, which refers to no storages.
///
/// # Errors
/// As [`TorchFile::tree_with`].
pub(super) fn data(bytes: &[u8], foreign: Foreign) -> Result<Value> {
    use pickle::build::build_with;
    use pickle::machine::{Stop, run};

    let damaged = |what: &str| Error::damaged(Place::default(), what);
    let program = run(bytes).map_err(|stop| match stop {
        Stop::Bad(error) => error,
        Stop::Short => damaged("the pickle is truncated"),
    })?;
    if program.consumed != bytes.len() {
        return Err(damaged("bytes follow the pickle"));
    }
    let (tree, _) = build_with(program, foreign, &mut |_| Err(damaged("unexpected storage")))?;
    Ok(tree)
}

/// The first key of a dict that Python considers equal to one before it (`1` and `True`): one of
/// their values would be lost.
pub fn repeated_key(entries: &[(Value, Value)]) -> Option<&Value> {
    pickle::keys::repeated(entries)
}

/// The constructor of this name that a [`crate::value::Call`] may make (`torch._utils._rebuild_qtensor`),
/// if it is in the table of those that PyTorch accepts.
pub fn constructor(name: &str) -> Option<&'static str> {
    pickle::kept(name)
}

/// The class or function of this name that may stand in a tree as a value
/// (`collections.OrderedDict`), as a [`crate::value::Call`] without arguments.
pub(super) fn class(name: &str) -> Option<&'static str> {
    pickle::class(name)
}
