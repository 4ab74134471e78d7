//! Records that have one checksum for the whole, which can be checked only once all was read.

use std::sync::Mutex;

use twox_hash::XxHash3_128;

use super::{Check, MISMATCH, MISMATCH_CRC, RecordSource, STEP};
use crate::CHUNK_SIZE;
use crate::codec::digest::{combine_crc, fold};
use crate::error::Result;
use crate::tensor::Pass;
use crate::threads::held;

/// What is known of a run of bytes of a record once it was read.
#[derive(Debug)]
pub(in crate::codec) struct Seen {
    start: u64,
    pub(in crate::codec) len: u64,
    crc: crc32fast::Hasher,
    pub(in crate::codec) digests: Vec<u128>,
}

impl Seen {
    /// Nothing yet, of a run that begins with the chunk at `start`.
    pub(in crate::codec) fn from(start: u64) -> Self {
        Self { start, len: 0, crc: crc32fast::Hasher::new(), digests: Vec::new() }
    }

    /// Reads the bytes that follow, whole chunks or up to the end of the record, and hashes them
    /// while they are in the cache.
    pub(in crate::codec) fn read(&mut self, record: &RecordSource, buf: &mut [u8]) -> Result<()> {
        let with_digests = !matches!(record.check, Check::Nothing);
        // If there are digests, the root covers the CRC-32.
        let with_crc = matches!(record.check, Check::Crc(_));
        for step in buf.chunks_mut(STEP) {
            record.read(self.start + self.len, step)?;
            for chunk in step.chunks(CHUNK_SIZE) {
                if with_crc {
                    self.crc.update(chunk);
                }
                if with_digests {
                    self.digests.push(XxHash3_128::oneshot(chunk));
                }
            }
            self.len += step.len() as u64;
        }
        Ok(())
    }
}

impl RecordSource {
    /// Compares all that was read of the record with its checksum of the whole, and remembers the
    /// digests of its chunks if it was right.
    pub(in crate::codec) fn check_whole(&self, mut seen: Vec<Seen>) -> Result<()> {
        seen.sort_unstable_by_key(|seen| seen.start);
        let crc = combine_crc(seen.iter().map(|seen| &seen.crc));
        let found: Vec<u128> = seen.into_iter().flat_map(|seen| seen.digests).collect();
        let known = match &self.check {
            Check::Folded(expected, _) if fold(&found) != *expected => {
                return Err(self.whole_damaged(MISMATCH));
            }
            Check::Crc(_) if self.crc.is_some_and(|expected| crc != expected) => {
                return Err(self.whole_damaged(MISMATCH_CRC));
            }
            Check::Folded(_, known) | Check::Crc(known) => known,
            // Each chunk was compared with its own digest.
            Check::Chunks(..) | Check::Nothing => return Ok(()),
        };
        let _ = known.set(found);
        Ok(())
    }
}

/// A checked read of a record that has one checksum for the whole.
#[derive(Debug)]
pub(super) struct WholePass<'a> {
    record: &'a RecordSource,
    seen: Mutex<Vec<Seen>>,
}

impl<'a> WholePass<'a> {
    pub(super) fn new(record: &'a RecordSource) -> Self {
        Self { record, seen: Mutex::default() }
    }
}

impl Pass for WholePass<'_> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut seen = Seen::from(offset);
        seen.read(self.record, buf)?;
        held(&self.seen).push(seen);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.record.check_whole(std::mem::take(&mut *held(&self.seen)))
    }
}
