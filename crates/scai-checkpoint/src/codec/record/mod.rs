//! A run of bytes in a file, never returned unchecked.

mod whole;

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use twox_hash::XxHash3_128;

use super::digest::fold;
use crate::CHUNK_SIZE;
use crate::error::{Error, Place, Result};
use crate::memory::with_scratch;
use crate::store::ReadAt;
use crate::tensor::{Pass, PlainPass, Source, read_away};
pub(super) use whole::Seen;
use whole::WholePass;

/// Bytes read at a time, whole chunks: they are still in the cache when they are hashed.
pub(super) const STEP: usize = 4 * CHUNK_SIZE;

/// How often chunks are read again that could not be read or do not match.
const RETRIES: usize = 2;

const MISMATCH: &str = "checksum mismatch";
const MISMATCH_CRC: &str = "checksum mismatch (CRC-32)";

/// What the bytes of a record are checked against.
#[derive(Debug)]
pub(super) enum Check {
    /// The digests of its chunks: their range in the table.
    Chunks(Arc<[u128]>, Range<usize>),
    /// One digest folded from those of its chunks, which are kept once they were verified.
    Folded(u128, OnceLock<Vec<u128>>),
    /// The zip's CRC-32 of the whole. The digests that its chunks had when it was verified are kept,
    /// since the file may change afterwards.
    Crc(OnceLock<Vec<u128>>),
    /// Nothing: the file carries no checksums, and the caller accepted that.
    Nothing,
}

/// A record of an open file: a named run of its bytes.
#[derive(Debug)]
pub(super) struct RecordSource {
    pub(super) file: Arc<dyn ReadAt>,
    pub(super) name: Arc<str>,
    /// Where in the file it begins.
    pub(super) data: u64,
    pub(super) size: u64,
    /// The CRC-32 of the whole, if the file has one.
    pub(super) crc: Option<u32>,
    pub(super) check: Check,
}

impl RecordSource {
    /// Reads without checking.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(self.data + offset, buf).map_err(|error| {
            let range = offset..offset + buf.len() as u64;
            match error.kind() {
                ErrorKind::UnexpectedEof => self.damaged(range, "the file is truncated"),
                ErrorKind::InvalidData => self.damaged(range, &error.to_string()),
                _ => {
                    Error::Io { place: Box::new(self.place(range)), action: "read", source: error }
                }
            }
        })
    }

    fn place(&self, range: Range<u64>) -> Place {
        let place = Place::record(&*self.name);
        let range = self.data + range.start..self.data + range.end;
        Place { path: self.file.path(), ..place.bytes(range) }
    }

    fn damaged(&self, range: Range<u64>, detail: &str) -> Error {
        Error::damaged(self.place(range), detail)
    }

    /// Reads into `buf`, and checks every chunk it touches. What is not a whole chunk goes through other memory.
    fn read_chunks(&self, digests: &[u128], offset: u64, buf: &mut [u8]) -> Result<()> {
        const CHUNK: u64 = CHUNK_SIZE as u64;
        let end = offset + buf.len() as u64;
        let whole_from = offset.next_multiple_of(CHUNK).min(end);
        let whole_to = if end == self.size { end } else { (end - end % CHUNK).max(whole_from) };
        let (head, rest) = buf.split_at_mut((whole_from - offset) as usize);
        let (whole, tail) = rest.split_at_mut((whole_to - whole_from) as usize);
        self.copy_from_chunks(digests, offset, head)?;
        for (at, step) in (whole_from..).step_by(STEP).zip(whole.chunks_mut(STEP)) {
            let checked = self.read_checked(digests, at, step);
            checked.or_else(|error| self.read_again(digests, at, step, error))?;
        }
        self.copy_from_chunks(digests, whole_to, tail)
    }

    fn copy_from_chunks(&self, digests: &[u128], offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut rest = buf;
        self.each_step(digests, offset..offset + rest.len() as u64, |wanted| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(wanted.len());
            part.copy_from_slice(wanted);
            rest = after;
        })
    }

    /// Reads the chunks that have a part of `range`, some at a time, checks them, and hands out that part.
    fn each_step(
        &self,
        digests: &[u128],
        range: Range<u64>,
        mut hand_out: impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let start = at - at % CHUNK_SIZE as u64;
            let end = range.end.next_multiple_of(CHUNK_SIZE as u64).min(self.size);
            let len = end.saturating_sub(start).min(STEP as u64) as usize;
            with_scratch(len, |chunks| -> Result<()> {
                let checked = self.read_checked(digests, start, chunks);
                checked.or_else(|error| self.read_again(digests, start, chunks, error))?;
                let wanted = &chunks[(at - start) as usize..];
                let wanted = &wanted[..wanted.len().min((range.end - at) as usize)];
                at += wanted.len() as u64;
                hand_out(wanted);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn read_checked(&self, digests: &[u128], start: u64, chunks: &mut [u8]) -> Result<()> {
        self.read(start, chunks)?;
        self.check_chunks(digests, start, chunks)
    }

    /// Reads chunks again after `error`: memory or a bus may have failed once, and a caller that
    /// fills the memory of a model could not recover.
    fn read_again(
        &self,
        digests: &[u128],
        start: u64,
        chunks: &mut [u8],
        error: Error,
    ) -> Result<()> {
        for _ in 0..RETRIES {
            self.file.forget_cached();
            if self.read_checked(digests, start, chunks).is_ok() {
                return Ok(());
            }
        }
        Err(error)
    }

    /// Whether the chunk at `start` has this digest when it is read once more.
    pub(super) fn matches_again(&self, start: u64, digest: Option<&u128>) -> bool {
        let mut chunk = vec![0; (self.size.saturating_sub(start)).min(CHUNK_SIZE as u64) as usize];
        self.read(start, &mut chunk).is_ok() && digest == Some(&XxHash3_128::oneshot(&chunk))
    }

    /// Compares whole chunks, from `start` on, with their digests.
    fn check_chunks(&self, digests: &[u128], start: u64, bytes: &[u8]) -> Result<()> {
        let first = (start / CHUNK_SIZE as u64) as usize;
        for (i, chunk) in bytes.chunks(CHUNK_SIZE).enumerate() {
            if digests.get(first + i) != Some(&XxHash3_128::oneshot(chunk)) {
                return Err(self.chunk_damaged(start + (i * CHUNK_SIZE) as u64));
            }
        }
        Ok(())
    }

    /// The error for a chunk that does not match its digest.
    pub(super) fn chunk_damaged(&self, start: u64) -> Error {
        self.damaged(start..(start + CHUNK_SIZE as u64).min(self.size), MISMATCH)
    }

    /// The error for a record that does not match its checksum of the whole.
    pub(super) fn whole_damaged(&self, detail: &str) -> Error {
        self.damaged(0..self.size, detail)
    }

    /// Reads into `buf`; the whole record is checked the first time, and each chunk from then on.
    fn read_whole(&self, known: &OnceLock<Vec<u128>>, offset: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(known) = known.get() {
            return self.read_chunks(known, offset, buf);
        }
        let whole = offset == 0 && buf.len() as u64 == self.size;
        if whole {
            let mut seen = Seen::from(0);
            seen.read(self, buf)?;
            return self.check_whole(vec![seen]);
        }
        self.check_once()?;
        known.get().map_or(Ok(()), |known| self.read_chunks(known, offset, buf))
    }

    /// Reads and checks the whole record.
    fn check_once(&self) -> Result<()> {
        let mut seen = Seen::from(0);
        self.scan(&mut seen)?;
        self.check_whole(vec![seen])
    }

    /// Reads the whole record.
    fn scan(&self, seen: &mut Seen) -> Result<()> {
        let mut step = vec![0; STEP.min(self.size as usize)];
        while seen.len < self.size {
            let len = (self.size - seen.len).min(STEP as u64) as usize;
            seen.read(self, &mut step[..len])?;
        }
        Ok(())
    }

    /// Whether the whole record is right when it is read once more.
    pub(super) fn is_right_again(&self) -> bool {
        self.check_once().is_ok()
    }
}

impl Source for RecordSource {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.check {
            Check::Chunks(table, range) => {
                self.read_chunks(table.get(range.clone()).unwrap_or_default(), offset, buf)
            }
            Check::Folded(_, known) | Check::Crc(known) => self.read_whole(known, offset, buf),
            Check::Nothing => self.read(offset, buf),
        }
    }

    fn check(&self, range: Range<u64>) -> Result<()> {
        let digests = match &self.check {
            Check::Chunks(table, range) => table.get(range.clone()).unwrap_or_default(),
            Check::Folded(_, known) | Check::Crc(known) => match known.get() {
                Some(known) => known,
                // All of it is right, or none is known to be.
                None => return self.check_once(),
            },
            Check::Nothing => return read_away(self, range),
        };
        self.each_step(digests, range, |_| {})
    }

    fn pass(&self) -> Box<dyn Pass + '_> {
        match &self.check {
            Check::Folded(_, known) | Check::Crc(known) if known.get().is_none() => {
                Box::new(WholePass::new(self))
            }
            _ => Box::new(PlainPass(self)),
        }
    }

    fn record(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn file_range(&self) -> Option<Range<u64>> {
        self.file.descriptor().map(|_| self.data..self.data + self.size)
    }

    fn digests(&self) -> Option<&[u128]> {
        match &self.check {
            Check::Chunks(table, range) => table.get(range.clone()),
            Check::Folded(_, known) => known.get().map(Vec::as_slice),
            Check::Crc(_) | Check::Nothing => None,
        }
    }

    fn digest(&self) -> Option<u128> {
        match &self.check {
            Check::Chunks(table, range) => table.get(range.clone()).map(fold),
            Check::Folded(folded, _) => Some(*folded),
            Check::Crc(_) | Check::Nothing => None,
        }
    }
}
