//! Records that another program has deflated, in memory once they are read.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use miniz_oxide::inflate::decompress_to_vec_with_limit;

use super::Record;
use crate::error::{Error, Place, Result, shown};
use crate::store::ReadAt;

/// Deflated records may have this many times the length of the file, plus [`MOST_BYTES`]. Weights
/// and code do not compress that well, and a malicious file of a few bytes must not fill the memory.
const MOST_TIMES: u64 = 16;
const MOST_BYTES: u64 = 16 << 20;

/// The content of a deflated record, as a file.
#[derive(Debug)]
pub(in super::super) struct Inflated {
    file: Arc<dyn ReadAt>,
    data: u64,
    stored: u64,
    size: u64,
    content: OnceLock<Vec<u8>>,
}

impl Inflated {
    pub(in super::super) fn new(file: &Arc<dyn ReadAt>, record: &Record) -> Self {
        let (data, stored, size) = (record.data, record.stored(), record.size);
        Self { file: Arc::clone(file), data, stored, size, content: OnceLock::new() }
    }

    fn content(&self) -> io::Result<&[u8]> {
        if let Some(content) = self.content.get() {
            return Ok(content);
        }
        let mut deflated = vec![0; self.stored as usize];
        self.file.read_at(self.data, &mut deflated)?;
        let content = decompress_to_vec_with_limit(&deflated, self.size as usize);
        match content.ok().filter(|content| content.len() as u64 == self.size) {
            Some(content) => Ok(self.content.get_or_init(|| content)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it does not decompress to {} bytes", self.size),
            )),
        }
    }
}

impl ReadAt for Inflated {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let part = self.content()?.get(offset as usize..end as usize);
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn path(&self) -> Option<PathBuf> {
        self.file.path()
    }
}

/// Refuses records that would become very much larger than the file.
pub(in super::super) fn check_sizes(file_len: u64, records: &[Record]) -> Result<()> {
    let most = file_len.saturating_mul(MOST_TIMES).saturating_add(MOST_BYTES);
    let mut total = 0_u64;
    for record in records.iter().filter(|record| record.deflated.is_some()) {
        total = total.saturating_add(record.size);
        if total > most {
            return Err(Error::unsupported(
                Place::record(shown(&record.name)),
                format!(
                    "the record would decompress to {} bytes, suspiciously many for this file",
                    record.size
                ),
                "if you trust the file, load it with torch and save it again",
            ));
        }
    }
    Ok(())
}
