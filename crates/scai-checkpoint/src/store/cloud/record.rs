//! The record of an entry: the small object that makes an uploaded one an entry.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::checkpoint::now_iso;
use crate::error::{Error, Place, Result};
use crate::sealed;

/// The name of the record in the entry's folder.
pub(super) const RECORD: &str = "commit.json";
/// Bytes at the end of an object that its record binds. The end of a checkpoint binds all of it.
const END: u64 = 64 << 10;

const KIND: &str = "entry";
const VERSION: u32 = 1;

/// What an entry is: an object below the prefix, its length, and the digest of its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: String,
    version: u32,
    kind: String,
    /// From the prefix on, with slashes.
    pub(super) object: String,
    pub(super) size: u64,
    /// The XXH3-128 digest of its last bytes, at most [`END`], in hexadecimal.
    end: String,
    timestamp: String,
}

impl Record {
    /// The record of an object of `size` bytes that ends with `end`.
    pub(super) fn new(object: String, size: u64, end: &[u8]) -> Self {
        Self {
            format: "scai".to_owned(),
            version: VERSION,
            kind: KIND.to_owned(),
            object,
            size,
            end: sealed::digest(end),
            timestamp: now_iso(),
        }
    }

    /// Where the end begins of an object of so many bytes.
    pub(super) fn end_of(size: u64) -> u64 {
        size.saturating_sub(END)
    }

    /// Compares the last bytes of the object with those that were recorded.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(super) fn check(&self, end: &[u8]) -> Result<()> {
        let found = format!("{:032x}", XxHash3_128::oneshot(end));
        if found == self.end {
            return Ok(());
        }
        let place = Place::default().bytes(Self::end_of(self.size)..self.size);
        Err(Error::damaged(place, "it is not the object that was committed"))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        sealed::seal(&serde_json::to_string_pretty(self).unwrap_or_default())
    }

    /// # Errors
    /// [`Error::Damaged`] if the bytes are not those that were written; [`Error::Unsupported`] for a
    /// newer version.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        sealed::check(bytes).map_err(|what| Error::damaged(Place::default(), what))?;
        let newer = |what: String| {
            let hint = format!("this program reads versions up to {VERSION}; upgrade `scai`");
            Error::unsupported(Place::default(), what, hint)
        };
        let record: Self = serde_json::from_slice(bytes)
            .map_err(|error| newer(format!("the record has an unknown form ({error})")))?;
        if record.version > VERSION || record.kind != KIND {
            return Err(newer(format!("the record is of version {}", record.version)));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_any_other_byte_is_noticed() {
        let record = Record::new("a.pt/1.pt".to_owned(), 3, b"abc");
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        record.check(b"abc").unwrap();
        assert!(record.check(b"abd").unwrap_err().is_damage());
        for i in 0..bytes.len() {
            let mut other = bytes.clone();
            other[i] ^= 1;
            assert!(Record::decode(&other).unwrap_err().is_damage(), "byte {i}");
            assert!(Record::decode(&bytes[..i]).unwrap_err().is_damage(), "cut at {i}");
        }
    }
}
