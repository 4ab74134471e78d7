//! The record of an entry: the small object that makes an uploaded one an entry.

use serde::{Deserialize, Serialize};

use crate::checkpoint::now_iso;
use crate::error::{Error, Place, Result};
use crate::sealed::{self, Sealed};

/// Bytes at the end of an object that its record binds. The end of a checkpoint binds all of it.
const END: u64 = 64 << 10;

const VERSION: u32 = 1;

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Entry,
}

/// What an entry is: an object below the prefix, its length, and the digest of its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: String,
    version: u32,
    kind: Kind,
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
            kind: Kind::Entry,
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
        if sealed::digest(end) == self.end {
            return Ok(());
        }
        let place = Place::default().bytes(Self::end_of(self.size)..self.size);
        Err(Error::damaged(place, "it is not the object that was committed"))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        sealed::seal(self)
    }

    /// # Errors
    /// [`Error::Damaged`] if the bytes are not those that were written; [`Error::Unsupported`] for a
    /// newer version.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        sealed::open(bytes, "entry", VERSION)
    }
}

impl Sealed for Record {
    fn version(&self) -> u32 {
        self.version
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
