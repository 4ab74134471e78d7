//! A run of bytes in a file, never handed out unchecked.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use twox_hash::XxHash3_128;

use super::digest::{digests, fold};
use super::pass::WholePass;
use crate::CHUNK_SIZE;
use crate::error::{Error, Place, Result};
use crate::store::ReadAt;
use crate::tensor::{Pass, PlainPass, Source};

/// Bytes read at a time, whole chunks: they are still in the cache when they are hashed.
pub(super) const STEP: usize = 4 * CHUNK_SIZE;

thread_local! {
    /// Where chunks are read and checked.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) const MISMATCH: &str = "checksum mismatch";
pub(super) const MISMATCH_CRC: &str = "checksum mismatch (CRC-32)";

/// What the bytes of a record are checked against.
#[derive(Debug)]
pub(super) enum Check {
    /// The digests of its chunks: where they lie in the table.
    Chunks(Arc<[u128]>, Range<usize>),
    /// One digest folded from those of its chunks, which are kept once they were found right.
    Folded(u128, OnceLock<Vec<u128>>),
    /// The zip's CRC-32 of the whole, and whether it was found right before.
    Crc(AtomicBool),
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
    /// The CRC-32 of the whole, where the file has one.
    pub(super) crc: Option<u32>,
    pub(super) check: Check,
}

impl RecordSource {
    /// Reads without checking.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(self.data + offset, buf).map_err(|error| {
            let range = offset..offset + buf.len() as u64;
            match error.kind() {
                ErrorKind::UnexpectedEof => self.damaged(range, "the file was cut off"),
                ErrorKind::InvalidData => self.damaged(range, &error.to_string()),
                _ => {
                    Error::Io { place: Box::new(self.place(range)), action: "read", source: error }
                }
            }
        })
    }

    fn place(&self, range: Range<u64>) -> Place {
        Place::record(&*self.name).bytes(self.data + range.start..self.data + range.end)
    }

    fn damaged(&self, range: Range<u64>, detail: &str) -> Error {
        Error::damaged(self.place(range), detail)
    }

    /// Reads `buf` and checks every chunk it touches, before a byte of it goes there.
    ///
    /// A system copies three times as fast into memory that is in the cache as into memory that is
    /// not, so that to copy once more is the quicker way.
    fn read_chunks(&self, digests: &[u128], offset: u64, buf: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, buf);
        SCRATCH.with_borrow_mut(|scratch| {
            while !rest.is_empty() {
                let start = at - at % CHUNK_SIZE as u64;
                let end = (at + rest.len() as u64).next_multiple_of(CHUNK_SIZE as u64);
                let len = (end.min(self.size) - start).min(STEP as u64) as usize;
                if scratch.len() < len {
                    scratch.resize(len, 0);
                }
                let chunks = &mut scratch[..len];
                self.read(start, chunks)?;
                self.check_chunks(digests, start, chunks)?;
                let wanted = &chunks[(at - start) as usize..];
                let (part, after) = rest.split_at_mut(wanted.len().min(rest.len()));
                part.copy_from_slice(&wanted[..part.len()]);
                at += part.len() as u64;
                rest = after;
            }
            Ok(())
        })
    }

    /// Compares whole chunks that begin at `start` with their digests.
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

    /// The error for a record that does not match what is kept of the whole.
    pub(super) fn whole_damaged(&self, detail: &str) -> Error {
        self.damaged(0..self.size, detail)
    }

    /// Reads `buf`; the whole record is checked the first time, and each chunk from then on.
    fn read_folded(
        &self,
        folded: u128,
        known: &OnceLock<Vec<u128>>,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        if let Some(known) = known.get() {
            return self.read_chunks(known, offset, buf);
        }
        let whole = offset == 0 && buf.len() as u64 == self.size;
        let mut found = Vec::new();
        if whole {
            self.read(0, buf)?;
            found = digests(buf);
        } else {
            self.scan(|_, bytes| found.extend(digests(bytes)))?;
        }
        if fold(&found) != folded {
            return Err(self.whole_damaged(MISMATCH));
        }
        let known = known.get_or_init(|| found);
        if whole { Ok(()) } else { self.read_chunks(known, offset, buf) }
    }

    /// Reads `buf`; the whole record is checked the first time.
    fn read_crc(&self, checked: &AtomicBool, offset: u64, buf: &mut [u8]) -> Result<()> {
        if checked.load(Ordering::Acquire) {
            return self.read(offset, buf);
        }
        let crc = if offset == 0 && buf.len() as u64 == self.size {
            self.read(0, buf)?;
            crc32fast::hash(buf)
        } else {
            self.scan(|at, bytes| {
                // The part of this step that was asked for.
                let (from, to) =
                    (at.max(offset), (at + bytes.len() as u64).min(offset + buf.len() as u64));
                if from < to {
                    buf[(from - offset) as usize..(to - offset) as usize]
                        .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
                }
            })?
        };
        if Some(crc) != self.crc {
            return Err(self.whole_damaged(MISMATCH_CRC));
        }
        checked.store(true, Ordering::Release);
        Ok(())
    }

    /// Reads the whole record and returns its CRC-32; `visit` sees every step.
    fn scan(&self, mut visit: impl FnMut(u64, &[u8])) -> Result<u32> {
        let mut crc = crc32fast::Hasher::new();
        let mut step = vec![0; STEP.min(self.size as usize)];
        let mut at = 0;
        while at < self.size {
            let len = (self.size - at).min(STEP as u64) as usize;
            self.read(at, &mut step[..len])?;
            crc.update(&step[..len]);
            visit(at, &step[..len]);
            at += len as u64;
        }
        Ok(crc.finalize())
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
            Check::Folded(folded, known) => self.read_folded(*folded, known, offset, buf),
            Check::Crc(checked) => self.read_crc(checked, offset, buf),
            Check::Nothing => self.read(offset, buf),
        }
    }

    fn pass(&self) -> Box<dyn Pass + '_> {
        match &self.check {
            Check::Folded(_, known) if known.get().is_none() => Box::new(WholePass::new(self)),
            Check::Crc(checked) if !checked.load(Ordering::Acquire) => {
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
