//! Uploading the bytes of an entry, which threads write in any order, as parts of equal length.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{MultipartId, ObjectStoreExt, PutPayload};
use tokio::runtime::Handle;
use twox_hash::XxHash3_128;

use super::Remote;
use super::failed::failed;
use super::record::Record;
use super::runtime;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::store::WriteAt;
use crate::threads::held;

/// Parts are of this length, unless the store would need too many of them.
const PART: u64 = 8 << 20;
/// What stores take of one object.
const MOST_PARTS: u64 = 10_000;
/// Parts that are sent at once.
const IN_FLIGHT: usize = 8;

/// An object that is being uploaded. Nobody sees it before [`Upload::finish`].
#[derive(Debug)]
pub(super) struct Upload {
    remote: Arc<dyn Remote>,
    path: Path,
    /// What errors call it.
    url: String,
    len: u64,
    part: u64,
    /// `None` if all bytes are one part, which is put as the object.
    id: Option<MultipartId>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: Mutex<Parts>,
    /// A part has arrived, or failed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Parts {
    /// Those of which bytes are missing.
    open: HashMap<usize, Open>,
    in_flight: usize,
    sent: HashMap<usize, Sent>,
    failure: Option<object_store::Error>,
}

#[derive(Debug)]
struct Open {
    bytes: Box<[u8]>,
    written: u64,
}

#[derive(Debug)]
struct Sent {
    id: PartId,
    digest: u128,
    /// Its last bytes, if they may be among those that [`Record`] binds.
    tail: Vec<u8>,
}

/// An object that was uploaded.
#[derive(Debug)]
pub(super) struct Uploaded {
    /// The digest of each part.
    digests: Vec<u128>,
    /// Its last bytes, as [`Record`] binds them.
    pub(super) end: Vec<u8>,
}

impl Upload {
    /// Begins an object of `len` bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn begin(
        remote: Arc<dyn Remote>,
        path: Path,
        url: String,
        len: u64,
    ) -> Result<Self> {
        let part = PART.max(len.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let id = match len > part {
            true => {
                let id = runtime::wait(remote.create_multipart(&path));
                let id = id.map_err(|error| Error::io("begin to upload", error).at_path(&url))?;
                Some(id.map_err(|error| failed("begin to upload", &url, error))?)
            }
            false => None,
        };
        Ok(Self { remote, path, url, len, part, id, state: Arc::default() })
    }

    fn part_len(&self, number: usize) -> u64 {
        (self.len - number as u64 * self.part).min(self.part)
    }

    /// Adds bytes to a part; sends it if none is missing.
    fn add(&self, number: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let len = self.part_len(number);
        let mut parts = held(&self.state.parts);
        if !parts.open.contains_key(&number) {
            // What is on its way is what takes memory.
            while parts.in_flight >= IN_FLIGHT && parts.failure.is_none() {
                let waited = self.state.changed.wait(parts);
                parts = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
        if parts.failure.is_some() {
            return Err(io::Error::other("the upload has failed"));
        }
        if parts.sent.contains_key(&number) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "bytes were written twice"));
        }
        let open = match parts.open.entry(number) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => {
                let bytes = zeroed(len, "upload").map_err(io::Error::other)?;
                free.insert(Open { bytes, written: 0 })
            }
        };
        open.bytes[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        open.written += bytes.len() as u64;
        if open.written < len {
            return Ok(());
        }
        let Some(full) = parts.open.remove(&number) else { return Ok(()) };
        match &self.id {
            Some(id) => {
                let runtime = runtime::handle().map_err(io::Error::other)?;
                parts.in_flight += 1;
                drop(parts);
                self.send(&runtime, number, id.clone(), full.bytes);
                Ok(())
            }
            // It is the object.
            None => {
                parts.open.insert(number, full);
                Ok(())
            }
        }
    }

    fn send(&self, runtime: &Handle, number: usize, id: MultipartId, bytes: Box<[u8]>) {
        let digest = XxHash3_128::oneshot(&bytes);
        // The last part may be short.
        let is_near_end = number as u64 + 2 >= self.len.div_ceil(self.part);
        let tail = if is_near_end { end_of(&bytes).to_vec() } else { Vec::new() };
        let (remote, path, state) =
            (Arc::clone(&self.remote), self.path.clone(), Arc::clone(&self.state));
        let task = async move {
            let sent =
                remote.put_part(&path, &id, number, PutPayload::from(bytes.into_vec())).await;
            let mut parts = held(&state.parts);
            parts.in_flight -= 1;
            match sent {
                Ok(id) => drop(parts.sent.insert(number, Sent { id, digest, tail })),
                Err(error) => drop(parts.failure.get_or_insert(error)),
            }
            drop(parts);
            state.changed.notify_all();
        };
        runtime.spawn(task);
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, Parts> {
        let mut parts = held(&self.state.parts);
        while parts.in_flight > 0 {
            let waited = self.state.changed.wait(parts);
            parts = waited.unwrap_or_else(PoisonError::into_inner);
        }
        parts
    }

    /// Makes the object of its parts, once every byte was written.
    ///
    /// # Errors
    /// [`Error::Invalid`] if bytes are missing; [`Error::Io`].
    pub(super) fn finish(&self) -> Result<Uploaded> {
        let mut parts = self.settled();
        let io_failed = |error: io::Error| Error::io("upload", error).at_path(&self.url);
        if let Some(failure) = parts.failure.take() {
            return Err(failed("upload", &self.url, failure));
        }
        let missing = || Error::invalid(format!("`{}`: not every byte was written", self.url));
        let Some(id) = &self.id else {
            let whole = match parts.open.remove(&0) {
                Some(open) if open.written == self.len => open.bytes,
                None if self.len == 0 => Box::default(),
                _ => return Err(missing()),
            };
            let uploaded = Uploaded {
                digests: vec![XxHash3_128::oneshot(&whole)],
                end: end_of(&whole).to_vec(),
            };
            let put = self.remote.put(&self.path, PutPayload::from(whole.into_vec()));
            let put = runtime::wait(put).map_err(io_failed)?;
            put.map_err(|error| failed("upload", &self.url, error))?;
            return Ok(uploaded);
        };
        let count = self.len.div_ceil(self.part) as usize;
        let sent: Option<Vec<Sent>> = (0..count).map(|number| parts.sent.remove(&number)).collect();
        drop(parts);
        let sent = sent.ok_or_else(missing)?;
        let digests = sent.iter().map(|sent| sent.digest).collect();
        let tails: Vec<u8> = sent.iter().flat_map(|sent| &sent.tail).copied().collect();
        let ids = sent.into_iter().map(|sent| sent.id).collect();
        let completed = self.remote.complete_multipart(&self.path, id, ids);
        let completed = runtime::wait(completed).map_err(io_failed)?;
        completed.map_err(|error| failed("complete the upload of", &self.url, error))?;
        Ok(Uploaded { digests, end: end_of(&tails).to_vec() })
    }

    /// Gives it up: the store forgets the parts.
    pub(super) fn abandon(&self) {
        drop(self.settled());
        if let Some(id) = &self.id {
            let _ = runtime::wait(self.remote.abort_multipart(&self.path, id));
        }
    }
}

impl WriteAt for Upload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= self.len);
        if end.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the planned length"));
        }
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let number = (at / self.part) as usize;
            let inside = at % self.part;
            let (now, after) =
                rest.split_at(rest.len().min((self.part_len(number) - inside) as usize));
            self.add(number, inside, now)?;
            at += now.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

impl Uploaded {
    /// Reads the object back, and compares it with what was sent.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, or is not what was sent.
    pub(super) fn read_back(&self, upload: &Upload) -> Result<()> {
        let each = self.digests.iter().enumerate();
        for (number, digest) in each.filter(|_| upload.len > 0) {
            let begin = number as u64 * upload.part;
            let range = begin..begin + upload.part_len(number);
            let bytes = runtime::wait(upload.remote.get_range(&upload.path, range))
                .map_err(|error| Error::io("read back", error).at_path(&upload.url))?
                .map_err(|error| failed("read back", &upload.url, error))?;
            if XxHash3_128::oneshot(&bytes) != *digest {
                let error = io::Error::other("the store does not have the bytes that were sent");
                return Err(Error::io("read back", error).at_path(&upload.url));
            }
        }
        Ok(())
    }
}

fn end_of(bytes: &[u8]) -> &[u8] {
    &bytes[Record::end_of(bytes.len() as u64) as usize..]
}
