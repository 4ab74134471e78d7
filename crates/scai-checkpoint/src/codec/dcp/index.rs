//! The end of a shard: where its items are, and what binds their bytes.
//!
//! ```text
//! items, with zeros between them
//! for each item, 48 bytes, little-endian:
//!   offset u64 | length u64 | check u64 | zero u64 | digest u128
//! "SCAISHD1" | number of items u64 | root u128
//! ```

use twox_hash::XxHash3_128;

use crate::error::{Error, Place, Result};
use crate::memory::zeroed;
use crate::store::ReadAt;

const MAGIC: [u8; 8] = *b"SCAISHD1";
const ENTRY: u64 = 48;
const FOOTER: u64 = 32;

/// The items of a shard, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// None of them overlaps another.
    pub items: Vec<Item>,
}

/// An item of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What its digest is of.
    pub check: Check,
    /// The digest that binds its bytes.
    pub digest: u128,
}

/// What the digest of an item is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Check {
    /// All of its bytes (XXH3-128).
    Bytes = 0,
    /// It is the root of the `.pt` file that the item is, which binds the digests in it.
    Root = 1,
}

impl Index {
    /// The length of an index of so many items.
    pub(super) fn len_of(items: usize) -> u64 {
        items as u64 * ENTRY + FOOTER
    }

    /// The digest that binds every byte of the shard.
    pub fn root(&self) -> u128 {
        root(&self.entries())
    }

    /// Where the index begins.
    pub fn begin(&self) -> u64 {
        self.items.last().map_or(0, |item| item.offset + item.len)
    }

    fn entries(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.items.len() * ENTRY as usize);
        for Item { offset, len, check, digest } in &self.items {
            for number in [*offset, *len, *check as u64, 0] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(digest.to_le_bytes());
        }
        bytes
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.entries();
        let root = root(&bytes);
        bytes.extend(MAGIC);
        bytes.extend((self.items.len() as u64).to_le_bytes());
        bytes.extend(root.to_le_bytes());
        bytes
    }

    /// Reads the index of a shard; `None` if it has none, as one that PyTorch wrote.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written; [`Error::Io`].
    pub fn read(shard: &dyn ReadAt) -> Result<Option<Self>> {
        let io = |error| Error::io("read", error);
        let Some(at) = shard.len().checked_sub(FOOTER) else { return Ok(None) };
        let mut footer = [0; FOOTER as usize];
        shard.read_at(at, &mut footer).map_err(io)?;
        if !footer.starts_with(&MAGIC) {
            return Ok(None);
        }
        let damaged = |what: &str| Error::damaged(Place::default(), format!("the index {what}"));
        let count = u64::from_le_bytes(array(&footer[8..16]));
        let begin = count.checked_mul(ENTRY).and_then(|len| at.checked_sub(len));
        let begin = begin.ok_or_else(|| damaged("is longer than the file"))?;
        let mut bytes = zeroed(at - begin, "read the index of a shard")?;
        shard.read_at(begin, &mut bytes).map_err(io)?;
        if root(&bytes).to_le_bytes() != footer[16..] {
            return Err(damaged("is not what was written"));
        }
        let (entries, _) = bytes.as_chunks::<{ ENTRY as usize }>();
        let (mut items, mut end) = (Vec::with_capacity(entries.len()), 0);
        for entry in entries {
            let number = |at: usize| u64::from_le_bytes(array(&entry[at..at + 8]));
            let (offset, len) = (number(0), number(8));
            let check = match number(16) {
                0 => Check::Bytes,
                1 => Check::Root,
                _ => {
                    return Err(Error::unsupported(
                        Place::default(),
                        "the shard has an item of an unknown kind",
                        "it was written by a newer version; upgrade `scai`",
                    ));
                }
            };
            let after = offset.checked_add(len).filter(|after| *after <= begin && offset >= end);
            end = after.ok_or_else(|| damaged("has items that overlap"))?;
            items.push(Item {
                offset,
                len,
                check,
                digest: u128::from_le_bytes(array(&entry[32..])),
            });
        }
        if end != begin {
            return Err(damaged("does not begin where the last item ends"));
        }
        Ok(Some(Self { items }))
    }

    /// The item at this place.
    pub fn find(&self, offset: u64, len: u64) -> Option<&Item> {
        let at = self.items.binary_search_by_key(&offset, |item| item.offset).ok()?;
        self.items.get(at).filter(|item| item.len == len)
    }
}

fn root(entries: &[u8]) -> u128 {
    let mut hasher = XxHash3_128::new();
    hasher.write(b"scai shard 1");
    hasher.write(entries);
    hasher.finish_128()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct File(Vec<u8>);

    impl ReadAt for File {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
            Ok(())
        }
    }

    fn shard() -> Vec<u8> {
        let item = |offset, len, check, digest| Item { offset, len, check, digest };
        let items = vec![item(0, 5, Check::Bytes, 1), item(64, 9, Check::Root, u128::MAX)];
        let mut bytes = vec![0; 73];
        bytes.extend(Index { items }.encode());
        bytes
    }

    #[test]
    fn an_index_comes_back() {
        let bytes = shard();
        let index = Index::read(&File(bytes.clone())).unwrap().unwrap();
        assert_eq!(index.items.len(), 2);
        assert_eq!(bytes.len() as u64 - Index::len_of(2), index.begin());
        assert_eq!(index.find(64, 9).unwrap().digest, u128::MAX);
        assert!(index.find(64, 8).is_none() && index.find(1, 5).is_none());
        assert!(bytes.ends_with(&index.root().to_le_bytes()));
    }

    #[test]
    fn any_other_byte_is_noticed_and_a_file_without_index_has_none() {
        let bytes = shard();
        for i in bytes.len() - Index::len_of(2) as usize..bytes.len() {
            let mut other = bytes.clone();
            other[i] ^= 1;
            match Index::read(&File(other)) {
                Ok(None) => assert!((bytes.len() - 32..bytes.len() - 24).contains(&i), "byte {i}"),
                Ok(Some(_)) => panic!("byte {i}"),
                Err(error) => assert!(error.is_damage(), "byte {i}"),
            }
        }
        assert_eq!(Index::read(&File(vec![1; 7])).unwrap(), None);
        assert_eq!(Index::read(&File(vec![1; 700])).unwrap(), None);
    }
}
