//! The bytes of a record on disk, never handed out unchecked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use xxhash_rust::xxh3::xxh3_128;

use super::zip::Record;
use crate::CHUNK_SIZE;
use crate::error::{Error, Place, Result};
use crate::store::ReadAt;
use crate::tensor::Source;

/// Bytes read at a time where a whole record must be checked for a part of it.
const STEP: usize = 1 << 20;

/// What the bytes of a record are checked against.
#[derive(Debug)]
pub(super) enum Check {
    /// The digests of its chunks: where they lie in the table.
    Chunks(Arc<[u128]>, std::ops::Range<usize>),
    /// The zip's CRC-32 of the whole, and whether it was found right before.
    Crc(AtomicBool),
    /// Nothing: the file carries no checksums, and the caller accepted that.
    Nothing,
}

/// A record of an open file.
#[derive(Debug)]
pub(super) struct RecordSource {
    pub(super) file: Arc<dyn ReadAt>,
    pub(super) record: Record,
    pub(super) check: Check,
}

impl RecordSource {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(self.record.data + offset, buf).map_err(|error| {
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
        Place::record(&self.record.name)
            .bytes(self.record.data + range.start..self.record.data + range.end)
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
            let stop = (start + chunk_size).min(self.record.size);
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

    /// Reads `buf`; the whole record is checked the first time.
    fn read_crc(&self, checked: &AtomicBool, offset: u64, buf: &mut [u8]) -> Result<()> {
        let whole = 0..self.record.size;
        if checked.load(Ordering::Acquire) {
            return self.read(offset, buf);
        }
        let crc = if offset == 0 && buf.len() as u64 == self.record.size {
            self.read(0, buf)?;
            crc32fast::hash(buf)
        } else {
            self.scan_crc(|at, bytes| {
                // The part of this step that was asked for.
                let (from, to) =
                    (at.max(offset), (at + bytes.len() as u64).min(offset + buf.len() as u64));
                if from < to {
                    buf[(from - offset) as usize..(to - offset) as usize]
                        .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
                }
            })?
        };
        if crc != self.record.crc {
            return Err(self.damaged(whole, "checksum mismatch (CRC-32)"));
        }
        checked.store(true, Ordering::Release);
        Ok(())
    }

    /// The CRC-32 of the whole record; `visit` sees every step.
    fn scan_crc(&self, mut visit: impl FnMut(u64, &[u8])) -> Result<u32> {
        let mut crc = crc32fast::Hasher::new();
        let mut step = vec![0; STEP.min(self.record.size as usize)];
        let mut at = 0;
        while at < self.record.size {
            let len = (self.record.size - at).min(STEP as u64) as usize;
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
        let crc = self.scan_crc(|at, bytes| {
            if let Check::Chunks(table, range) = &self.check {
                let digests = table.get(range.clone()).unwrap_or_default();
                let first = (at / CHUNK_SIZE as u64) as usize;
                for (i, chunk) in bytes.chunks(CHUNK_SIZE).enumerate() {
                    if digests.get(first + i) != Some(&xxh3_128(chunk)) {
                        let start = at + (i * CHUNK_SIZE) as u64;
                        let range = start..start + chunk.len() as u64;
                        found.push(self.damaged(range, "checksum mismatch"));
                    }
                }
            }
            progress(bytes.len() as u64);
        });
        match crc {
            Err(error) => found.push(error),
            Ok(crc) if crc != self.record.crc && found.is_empty() => {
                if !matches!(self.check, Check::Nothing) {
                    found.push(self.damaged(0..self.record.size, "checksum mismatch (CRC-32)"));
                }
            }
            Ok(_) => {}
        }
        found
    }
}

impl Source for RecordSource {
    fn len(&self) -> u64 {
        self.record.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.check {
            Check::Chunks(table, range) => {
                self.read_chunks(table.get(range.clone()).unwrap_or_default(), offset, buf)
            }
            Check::Crc(checked) => self.read_crc(checked, offset, buf),
            Check::Nothing => self.read(offset, buf),
        }
    }

    fn record(&self) -> Option<&str> {
        Some(&self.record.name)
    }

    fn digests(&self) -> Option<&[u128]> {
        match &self.check {
            Check::Chunks(table, range) => table.get(range.clone()),
            _ => None,
        }
    }
}
