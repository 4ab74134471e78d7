//! A run of bytes in a file, never handed out unchecked.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use xxhash_rust::xxh3::xxh3_128;

use super::digest::{digests, fold};
use crate::CHUNK_SIZE;
use crate::error::{Error, Place, Result};
use crate::store::ReadAt;
use crate::tensor::Source;
use crate::threads::{held, on_threads};

/// Bytes read at a time where a whole record must be checked for a part of it.
const STEP: usize = 1 << 20;

/// What the bytes of a record are checked against.
#[derive(Debug)]
pub(super) enum Check {
    /// The digests of its chunks: where they lie in the table.
    Chunks(Arc<[u128]>, std::ops::Range<usize>),
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
    pub(super) name: String,
    /// Where in the file it begins.
    pub(super) data: u64,
    pub(super) size: u64,
    /// The CRC-32 of the whole, where the file has one.
    pub(super) crc: Option<u32>,
    pub(super) check: Check,
}

impl RecordSource {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(self.data + offset, buf).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                return self.damaged(offset..offset + buf.len() as u64, "the file was cut off");
            }
            Error::Io {
                place: Box::new(self.place(offset..offset + buf.len() as u64)),
                action: "read",
                source: error,
            }
        })
    }

    fn place(&self, range: std::ops::Range<u64>) -> Place {
        Place::record(&self.name).bytes(self.data + range.start..self.data + range.end)
    }

    fn damaged(&self, range: std::ops::Range<u64>, detail: &str) -> Error {
        Error::damaged(self.place(range), detail)
    }

    /// Reads `buf` and checks every chunk it touches.
    fn read_chunks(&self, digests: &[u128], offset: u64, buf: &mut [u8]) -> Result<()> {
        let chunk_size = CHUNK_SIZE as u64;
        let end = offset + buf.len() as u64;
        let mut at = offset;
        let mut whole = Vec::new();
        while at < end {
            let index = at / chunk_size;
            let start = index * chunk_size;
            let stop = (start + chunk_size).min(self.size);
            let until = stop.min(end);
            let part = &mut buf[(at - offset) as usize..(until - offset) as usize];
            let expected = digests.get(index as usize).copied();
            let found = if part.len() as u64 == stop - start {
                self.read(start, part)?;
                xxh3_128(part)
            } else {
                whole.resize((stop - start) as usize, 0);
                self.read(start, &mut whole)?;
                let found = xxh3_128(&whole);
                part.copy_from_slice(&whole[(at - start) as usize..(until - start) as usize]);
                found
            };
            if expected != Some(found) {
                return Err(self.damaged(start..stop, "checksum mismatch"));
            }
            at = until;
        }
        Ok(())
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
            return Err(self.damaged(0..self.size, "checksum mismatch"));
        }
        let known = known.get_or_init(|| found);
        if whole { Ok(()) } else { self.read_chunks(known, offset, buf) }
    }

    /// Reads `buf`; the whole record is checked the first time.
    fn read_crc(&self, checked: &AtomicBool, offset: u64, buf: &mut [u8]) -> Result<()> {
        let whole = 0..self.size;
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
            return Err(self.damaged(whole, "checksum mismatch (CRC-32)"));
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

    /// Checks every byte, the CRC-32 included, and returns all that is wrong.
    pub(super) fn verify(&self, progress: &(dyn Fn(u64) + Sync)) -> Vec<Error> {
        let mut found = Vec::new();
        let mut seen = Vec::new();
        let crc = self.scan(|at, bytes| {
            match &self.check {
                Check::Chunks(table, range) => {
                    let expected = table.get(range.clone()).unwrap_or_default();
                    let first = (at / CHUNK_SIZE as u64) as usize;
                    for (i, digest) in digests(bytes).into_iter().enumerate() {
                        if expected.get(first + i) != Some(&digest) {
                            let start = at + (i * CHUNK_SIZE) as u64;
                            let range = start..(start + CHUNK_SIZE as u64).min(self.size);
                            found.push(self.damaged(range, "checksum mismatch"));
                        }
                    }
                }
                Check::Folded(..) => seen.extend(digests(bytes)),
                Check::Crc(_) | Check::Nothing => {}
            }
            progress(bytes.len() as u64);
        });
        if let (Check::Folded(expected, _), Ok(_)) = (&self.check, &crc)
            && fold(&seen) != *expected
        {
            found.push(self.damaged(0..self.size, "checksum mismatch"));
        }
        match crc {
            Err(error) => found.push(error),
            Ok(crc) if self.crc.is_some_and(|expected| crc != expected) && found.is_empty() => {
                found.push(self.damaged(0..self.size, "checksum mismatch (CRC-32)"));
            }
            Ok(_) => {}
        }
        found
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

    fn record(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn file_range(&self) -> Option<Range<u64>> {
        Some(self.data..self.data + self.size)
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

/// Checks every byte of the records, on `threads` threads, and returns all that is wrong in the
/// order of the file.
pub(super) fn verify_all(
    records: &[&RecordSource],
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<Error> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    on_threads(threads.min(records.len()), || {
        while let Some(record) = records.get(next.fetch_add(1, Ordering::Relaxed)) {
            let damage = record.verify(progress);
            if !damage.is_empty() {
                held(&found).extend(damage);
            }
        }
    });
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|error: &Error| {
        error.place().and_then(|place| place.bytes.clone()).map_or(0, |bytes| bytes.start)
    });
    found
}
