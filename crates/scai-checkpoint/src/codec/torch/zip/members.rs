//! What any zip file holds, whoever wrote it: enough to name it and to find its members. A file of
//! PyTorch is read by [`read`](super::read), which trusts nothing.

use std::sync::{Arc, OnceLock};

use super::inflate::{Inflated, check_sizes};
use super::{
    CENTRAL, CENTRAL_LEN, DEFLATED, END, END_LEN, END64, END64_LEN, EXTRA_ZIP64, IN_ZIP64, LOCAL,
    LOCAL_LEN, LOCATOR64, LOCATOR64_LEN, Record, STORED,
};
use crate::codec::record::{Check, RecordSource};
use crate::error::{Error, Place, Result};
use crate::store::ReadAt;

/// The longest comment the end record can have.
const MAX_COMMENT: u64 = u16::MAX as u64;
/// A longer directory is not read.
const MAX_DIRECTORY: u64 = 64 << 20;

/// A member of a zip file, as its directory lists it.
#[derive(Debug)]
pub(in crate::codec) struct Member {
    pub(in crate::codec) name: String,
    method: u16,
    encrypted: bool,
    size: u64,
    stored: u64,
    header: u64,
    crc: u32,
}

/// The members of a zip file; `None` if it is not one, or not whole.
pub(in crate::codec) fn members(file: &dyn ReadAt) -> Option<Vec<Member>> {
    let len = file.len();
    let window = len.min(END_LEN as u64 + MAX_COMMENT + (END64_LEN + LOCATOR64_LEN) as u64);
    let bytes = bytes(file, len - window, window)?;
    let at = bytes.windows(END.len()).rposition(|four| four == END)?;
    let end = bytes.get(at..at + END_LEN)?;
    let (mut size, mut start) = (u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16)));
    let locator = at.checked_sub(LOCATOR64_LEN).filter(|&at| bytes[at..].starts_with(&LOCATOR64));
    let end64 = locator.and_then(|at| at.checked_sub(END64_LEN));
    if let Some(at) = end64.filter(|&at| bytes[at..].starts_with(&END64)) {
        (size, start) = (u64_at(&bytes, at + 40), u64_at(&bytes, at + 48));
    }
    if size > MAX_DIRECTORY || start.checked_add(size).is_none_or(|end| end > len) {
        return None;
    }
    let directory = self::bytes(file, start, size)?;
    let mut rest = directory.as_slice();
    let mut members = Vec::new();
    while rest.starts_with(&CENTRAL) {
        let fixed = rest.get(..CENTRAL_LEN)?;
        let [name_len, extra_len, comment_len] =
            [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
        let name = rest.get(CENTRAL_LEN..CENTRAL_LEN + name_len)?;
        let extra = rest.get(CENTRAL_LEN + name_len..)?.get(..extra_len)?;
        let mut wide = wide(extra).into_iter();
        let mut number = |narrow: u32| match narrow {
            IN_ZIP64 => wide.next(),
            narrow => Some(narrow.into()),
        };
        members.push(Member {
            name: String::from_utf8_lossy(name).into_owned(),
            method: u16_at(fixed, 10),
            encrypted: u16_at(fixed, 8) & 1 != 0,
            size: number(u32_at(fixed, 24))?,
            stored: number(u32_at(fixed, 20))?,
            header: number(u32_at(fixed, 42))?,
            crc: u32_at(fixed, 16),
        });
        rest = rest.get(CENTRAL_LEN + name_len + extra_len + comment_len..)?;
    }
    Some(members)
}

impl Member {
    /// The content, checked against its CRC-32 as it is read.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is outside the file; [`Error::Unsupported`] for encryption and for
    /// compression other than deflate.
    pub(in crate::codec) fn content(&self, file: &Arc<dyn ReadAt>) -> Result<RecordSource> {
        let place = || Place::record(self.name.as_str());
        if self.encrypted || ![STORED, DEFLATED].contains(&self.method) {
            let how =
                if self.encrypted { "encrypted" } else { "compressed with an unsupported method" };
            return Err(Error::unsupported(
                place(),
                format!("this part of the archive is {how}"),
                "unpack the archive, and open the file in it",
            ));
        }
        let lost = || Error::damaged(place(), "this part of the archive is truncated");
        let local = bytes(&**file, self.header, LOCAL_LEN as u64).ok_or_else(lost)?;
        if !local.starts_with(&LOCAL) {
            return Err(lost());
        }
        let skipped = u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        let data = self.header + LOCAL_LEN as u64 + skipped;
        if data.checked_add(self.stored).is_none_or(|end| end > file.len()) {
            return Err(lost());
        }
        let (name, size, crc) = (self.name.clone(), self.size, self.crc);
        let deflated = (self.method == DEFLATED).then_some(self.stored);
        let record = Record { name, header: self.header, data, size, deflated, crc };
        check_sizes(file.len(), std::slice::from_ref(&record))?;
        Ok(source(file, record, Some(crc), Check::Crc(OnceLock::new())))
    }
}

/// The bytes of a record, wherever they come from.
pub(in super::super) fn source(
    file: &Arc<dyn ReadAt>,
    record: Record,
    crc: Option<u32>,
    check: Check,
) -> RecordSource {
    let (file, data) = match record.deflated {
        Some(_) => (Arc::new(Inflated::new(file, &record)) as Arc<dyn ReadAt>, 0),
        None => (Arc::clone(file), record.data),
    };
    RecordSource { file, name: record.name.into(), data, size: record.size, crc, check }
}

/// The numbers of the ZIP64 extra field, if there is one.
fn wide(mut extra: &[u8]) -> Vec<u64> {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(field) = extra.get(4..4 + len) else { break };
        if id == EXTRA_ZIP64 {
            return field.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        }
        extra = &extra[4 + len..];
    }
    Vec::new()
}

fn bytes(file: &dyn ReadAt, at: u64, len: u64) -> Option<Vec<u8>> {
    if at.checked_add(len)? > file.len() {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_at(at, &mut bytes).ok().map(|()| bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}
