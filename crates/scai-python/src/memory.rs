//! Memory that Python owns: read while training may go on, and filled by a load.
//!
//! This is the one place that turns addresses into bytes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use scai_checkpoint::error::Place;
use scai_checkpoint::memory::room_for;
use scai_checkpoint::tensor::Source;
use scai_checkpoint::{Error, Result};

use crate::pool::{Buffer, Pool};
use crate::sync::{held, shared_out};

/// What is copied, compared or filled at a time.
pub(crate) const COPY_PIECE: usize = 1 << 20;

/// Memory shorter than this is copied while the interpreter waits, even where it could be read
/// later: it is over before a thread would have begun.
pub(crate) const SMALL: usize = 64 << 10;

/// Of so many bytes of memory that is read later a line is remembered. What PyTorch counts is
/// noticed in any case ([`Owners::watch`]); this is for what it does not count.
const BLOCK: usize = 4096;

/// What memory hands out at a time: to look at one word of it costs as much.
const LINE: usize = 64;

/// Lines that are fetched before the first of them is looked at: the processor waits for several at once.
const BATCH: usize = 16;

/// A run of bytes of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    pub(crate) address: usize,
    pub(crate) len: usize,
}

impl Region {
    pub(crate) fn end(self) -> usize {
        self.address.saturating_add(self.len)
    }

    /// Copies bytes out. `false` where the memory is not there any more.
    ///
    /// The kernel copies where it can: it refuses an address that was unmapped, where a plain read
    /// would end the process.
    fn read(self, offset: usize, buf: &mut [u8]) -> bool {
        let inside = offset.checked_add(buf.len()).is_some_and(|end| end <= self.len);
        let there = self.address != 0 || self.len == 0;
        if !(inside && there) || buf.is_empty() {
            return inside && there;
        }
        if !reads_are_safe() {
            copy_plain(self.address + offset, buf);
            return true;
        }
        copy_checked(self.address + offset, buf) == Ok(true)
    }

    /// Copies bytes out while the interpreter is held, so that nobody frees them.
    fn read_held(self, offset: usize, buf: &mut [u8]) -> bool {
        let inside = offset.checked_add(buf.len()).is_some_and(|end| end <= self.len);
        let there = self.address != 0 || self.len == 0;
        if inside && there && !buf.is_empty() {
            copy_plain(self.address + offset, buf);
        }
        inside && there
    }

    /// The memory as a destination.
    ///
    /// # Safety
    /// The region is allocated, nobody else reads or writes it, and it stays so for `'a`.
    #[expect(unsafe_code, reason = "tensors are memory of Python")]
    pub(crate) unsafe fn as_mut<'a>(self) -> &'a mut [u8] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: the caller vouches for the memory, which is not empty and so has an address.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, self.len) }
    }
}

/// How bytes are copied out: [`Region::read`] or [`Region::read_held`].
type Read = fn(Region, usize, &mut [u8]) -> bool;

/// Whether memory that is gone makes a read fail and does not end the process. Some sandboxes
/// refuse the call that does so, and other systems have none; nothing is read late there.
pub(crate) fn reads_are_safe() -> bool {
    static SAFE: LazyLock<bool> = LazyLock::new(|| {
        let (word, mut read) = ([7_u8; 8], [0; 8]);
        copy_checked(word.as_ptr().addr(), &mut read) == Ok(true) && read == word
    });
    *SAFE
}

/// The kernel does not copy memory of this process.
#[derive(Debug, PartialEq)]
struct Refused;

#[cfg(target_os = "linux")]
fn copy_checked(address: usize, buf: &mut [u8]) -> std::result::Result<bool, Refused> {
    use nix::errno::Errno;
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    use std::io::IoSliceMut;

    let mut done = 0;
    while done < buf.len() {
        let remote = [RemoteIoVec { base: address + done, len: buf.len() - done }];
        let mut local = [IoSliceMut::new(&mut buf[done..])];
        match process_vm_readv(nix::unistd::Pid::this(), &mut local, &remote) {
            Ok(0) | Err(Errno::EFAULT) => return Ok(false),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Refused),
        }
    }
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn copy_checked(_address: usize, _buf: &mut [u8]) -> std::result::Result<bool, Refused> {
    Err(Refused)
}

#[expect(unsafe_code, reason = "tensors are memory of Python")]
fn copy_plain(address: usize, buf: &mut [u8]) {
    // SAFETY: the region belongs to a storage that `Owners` keeps alive, and that the caller was
    // told not to resize meanwhile. Another thread may write to it; the bytes are then any bytes.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, buf.as_mut_ptr(), buf.len()) };
}

/// The objects whose memory a save reads. They go all at once: one by one they would wait for
/// whoever runs Python next, and a lock would be taken that a fork might copy while it is held.
pub(crate) struct Owners {
    objects: Mutex<Vec<Py<PyAny>>>,
    watched: Mutex<Vec<Watched>>,
    /// Whether all memory that is read later belongs to a tensor that is watched.
    all_watched: AtomicBool,
    /// The first tensor that was found changed, once all were looked at.
    changed: OnceLock<Option<String>>,
    /// Copies memory of other devices: `wait()` returns when it is there.
    staging: Option<Py<PyAny>>,
    staged: OnceLock<Option<String>>,
}

impl Owners {
    pub(crate) fn new(staging: Option<Py<PyAny>>) -> Self {
        Self {
            objects: Mutex::default(),
            watched: Mutex::default(),
            all_watched: AtomicBool::new(false),
            changed: OnceLock::new(),
            staging,
            staged: OnceLock::new(),
        }
    }

    /// From now on `check` tells whether anybody has written to these tensors. `all` is whether all
    /// memory that is read later is theirs.
    pub(crate) fn watch(&self, watched: Vec<Watched>, all: bool) {
        *held(&self.watched) = watched;
        self.all_watched.store(all, Ordering::Relaxed);
    }

    /// Whether all memory that is read later is known to be where it was, and stays there as long as
    /// the interpreter is held.
    pub(crate) fn are_in_place(&self, py: Python<'_>) -> bool {
        let watched = held(&self.watched);
        self.all_watched.load(Ordering::Relaxed)
            && !watched.is_empty()
            && watched.iter().all(|one| one.is_in_place(py))
    }

    /// Tells whether a tensor was written to between `watch` and the first call of this: before
    /// memory may change again, or else before what was read of it is published. Waits for the
    /// interpreter, so whoever holds it must let it go.
    ///
    /// # Errors
    /// [`Error::Changed`] where one was.
    pub(crate) fn check(&self) -> Result<()> {
        let changed = self.changed.get_or_init(|| {
            let watched = std::mem::take(&mut *held(&self.watched));
            // No code of Python runs any more where its interpreter has ended.
            let changed = Python::try_attach(|py| {
                watched.into_iter().find(|one| one.has_changed(py)).map(|one| one.name)
            });
            changed.flatten()
        });
        changed.as_deref().map_or(Ok(()), |name| Err(changed_error(name)))
    }

    pub(crate) fn add(&self, owner: Py<PyAny>) {
        held(&self.objects).push(owner);
    }

    /// Waits until what was copied from other devices is there.
    fn await_staged(&self) -> Result<()> {
        let wait = || {
            let staging = self.staging.as_ref()?;
            let waited = Python::try_attach(|py| {
                let waited = staging.call_method0(py, "wait");
                waited.err().map(|error| error.value(py).to_string())
            });
            waited.unwrap_or_else(|| Some("the interpreter has ended".to_owned()))
        };
        match self.staged.get_or_init(wait) {
            None => Ok(()),
            Some(failure) => Err(Error::Invalid(format!("cannot copy from the device: {failure}"))),
        }
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        let objects = std::mem::take(&mut *held(&self.objects));
        let watched = std::mem::take(&mut *held(&self.watched));
        let owned = (objects, watched, self.staging.take());
        if !owned.0.is_empty() || !owned.1.is_empty() || owned.2.is_some() {
            // An interpreter that has ended takes nothing back.
            let _ = Python::try_attach(|_| drop(owned));
        }
    }
}

/// A tensor, how often PyTorch had written to it or to another view of its memory, and where that
/// was.
pub(crate) struct Watched {
    tensor: Py<PyAny>,
    state: (Option<u64>, Option<usize>),
    name: String,
}

impl Watched {
    pub(crate) fn new(py: Python<'_>, tensor: &Py<PyAny>, name: &str) -> Self {
        let state = Self::state_of(py, tensor);
        Self { tensor: tensor.clone_ref(py), state, name: name.to_owned() }
    }

    pub(crate) fn has_changed(&self, py: Python<'_>) -> bool {
        Self::state_of(py, &self.tensor) != self.state
    }

    fn is_in_place(&self, py: Python<'_>) -> bool {
        let address = Self::address_of(self.tensor.bind(py));
        address.is_some() && address == self.state.1
    }

    fn state_of(py: Python<'_>, tensor: &Py<PyAny>) -> (Option<u64>, Option<usize>) {
        let tensor = tensor.bind(py);
        // An inference tensor has no count.
        let version = tensor.getattr(intern!(py, "_version"));
        (version.and_then(|version| version.extract()).ok(), Self::address_of(tensor))
    }

    fn address_of(tensor: &Bound<'_, PyAny>) -> Option<usize> {
        let address = tensor.call_method0(intern!(tensor.py(), "data_ptr"));
        address.and_then(|address| address.extract()).ok()
    }

    pub(crate) fn error(&self) -> Error {
        changed_error(&self.name)
    }
}

fn changed_error(name: &str) -> Error {
    let tensor = (!name.is_empty()).then(|| name.to_owned());
    Error::Changed { place: Box::new(Place { tensor, ..Place::default() }) }
}

/// The bytes of a tensor's storage, as a source for the writer.
///
/// Each byte is handed over once. What is live is compared with what it was when the save began.
pub(crate) struct Snapshot {
    region: Region,
    /// Keep the memory alive.
    owners: Arc<Owners>,
    /// The first tensor that was found to be a view of it.
    name: String,
    taken: OnceLock<Content>,
}

enum Content {
    Copied(Copied),
    Live(LiveBytes),
    /// It is a copy already, or will be once the device has made it.
    Staged,
}

/// A copy: the whole of a buffer, or a part of one that many share.
pub(crate) struct Copied {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

struct LiveBytes {
    samples: Samples,
    /// What the bytes were, once they were copied and the memory may change. Held by whoever reads.
    copied: RwLock<Option<Buffer>>,
    unread: AtomicUsize,
    capture: Arc<Capture>,
}

impl Snapshot {
    pub(crate) fn new(region: Region, owners: Arc<Owners>, name: String) -> Self {
        Self { region, owners, name, taken: OnceLock::new() }
    }

    pub(crate) fn address(&self) -> usize {
        self.region.address
    }

    pub(crate) fn len(&self) -> usize {
        self.region.len
    }

    /// The bytes are there when the device has copied them.
    pub(crate) fn set_staged(&self) {
        let _ = self.taken.set(Content::Staged);
    }

    /// From now on the bytes are these.
    pub(crate) fn set_copy(&self, buffer: Arc<Buffer>, range: Range<usize>) {
        let _ = self.taken.set(Content::Copied(Copied { buffer, range }));
    }

    /// Fills a part of a copy with the bytes as they are now.
    pub(crate) fn copy_to(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        if self.region.read(offset, buf) { Ok(()) } else { Err(self.changed()) }
    }

    /// Fills a part of a copy while the interpreter is held.
    pub(crate) fn copy_held(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        if self.region.read_held(offset, buf) { Ok(()) } else { Err(self.changed()) }
    }

    /// From now on the bytes are read when they are written, and `capture` waits for that. Called
    /// while the interpreter is held, after [`room_for_samples`].
    pub(crate) fn go_live(&self, capture: &Arc<Capture>) -> Result<()> {
        let samples = Samples::of(self.region).ok_or_else(|| self.changed())?;
        capture.add(self.region.len);
        let unread = AtomicUsize::new(self.region.len);
        let _ = self.taken.set(Content::Live(LiveBytes {
            samples,
            copied: RwLock::default(),
            unread,
            capture: Arc::clone(capture),
        }));
        Ok(())
    }

    /// Bytes that are read live and were not read yet.
    pub(crate) fn unread(&self) -> usize {
        match self.taken.get() {
            Some(Content::Live(live)) => live.unread.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Copies the bytes now by `read`, if any of them is still to be read live.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn copy_now(&self, pool: &Pool, read: Read) -> Result<()> {
        let Some(Content::Live(live)) = self.taken.get() else { return Ok(()) };
        let mut buffer = pool.take(self.region.len)?;
        let mut copied = live.copied.write().unwrap_or_else(PoisonError::into_inner);
        let unread = live.unread.load(Ordering::Relaxed);
        // If the memory is gone, whoever reads it will report that.
        if copied.is_none() && unread > 0 && read(self.region, 0, buffer.bytes_mut()) {
            *copied = Some(buffer);
            live.unread.store(0, Ordering::Relaxed);
            live.capture.sub(unread);
        }
        Ok(())
    }

    fn changed(&self) -> Error {
        changed_error(&self.name)
    }
}

impl LiveBytes {
    /// Reads bytes from where they are now.
    fn read(&self, region: Region, offset: usize, buf: &mut [u8]) -> bool {
        let copied = self.copied.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(copied) = &*copied {
            let part = copied.get(offset..offset.saturating_add(buf.len()));
            return part.map(|part| buf.copy_from_slice(part)).is_some();
        }
        let is_there = region.read(offset, buf);
        if is_there {
            self.unread.fetch_sub(buf.len(), Ordering::Relaxed);
            self.capture.sub(buf.len());
        }
        is_there
    }
}

impl Copied {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.range.clone()).unwrap_or_default()
    }
}

/// Checks once for all memory that is to be read live that what is remembered of it has room.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn room_for_samples(bytes: usize) -> Result<()> {
    room_for(bytes / BLOCK * 8, "remember what a tensor was")
}

/// A line of each block of some memory, at places that are others each time: what writes to the
/// same few elements between all saves is noticed by one of them.
struct Samples {
    seed: u64,
    /// Of each block's line, 64 bits that tell it from what it may become.
    lines: Vec<u64>,
}

impl Samples {
    /// Of memory as it is now, while the interpreter is held.
    fn of(region: Region) -> Option<Self> {
        let seed = RandomState::new().build_hasher().finish();
        let count = (region.len / LINE).div_ceil(BLOCK / LINE);
        let mut lines = Vec::with_capacity(count);
        let mut batch = [[0; LINE]; BATCH];
        for first in (0..count).step_by(BATCH) {
            let batch = &mut batch[..BATCH.min(count - first)];
            for (block, line) in (first..).zip(&mut *batch) {
                region.read_held(place_of_line(seed, block, region.len), line).then_some(())?;
            }
            lines.extend(batch.iter().map(mixed));
        }
        Some(Self { seed, lines })
    }

    /// Whether the lines that were remembered are the ones just read.
    fn agree(&self, offset: usize, bytes: &[u8], len: usize) -> bool {
        let mut blocks = offset / BLOCK..(offset + bytes.len()).div_ceil(BLOCK);
        blocks.all(|block| {
            let Some(expected) = self.lines.get(block) else { return true };
            let place = place_of_line(self.seed, block, len).checked_sub(offset);
            // A line that was read in part, or not yet, says nothing.
            let line: Option<&[u8; LINE]> =
                place.and_then(|at| bytes.get(at..at + LINE)?.try_into().ok());
            line.is_none_or(|line| mixed(line) == *expected)
        })
    }
}

/// Where the line of a block begins, in memory of `len` bytes. The first one is looked at each time:
/// there allocators write when memory is freed.
fn place_of_line(seed: u64, block: usize, len: usize) -> usize {
    if block == 0 {
        return 0;
    }
    let begin = block * BLOCK;
    let lines = (len.saturating_sub(begin).min(BLOCK) / LINE).max(1) as u64;
    let random = (seed ^ block as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let random = (random ^ (random >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32;
    begin + ((random * lines) >> 32) as usize * LINE
}

/// 64 bits of a line. Each step can be undone, so that a change of one word never goes unnoticed.
fn mixed(line: &[u8; LINE]) -> u64 {
    let (words, _) = line.as_chunks::<8>();
    words.iter().fold(0, |mixed: u64, word| {
        (mixed.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

impl Source for Snapshot {
    fn len(&self) -> u64 {
        self.region.len as u64
    }

    fn as_slice(&self) -> Option<&[u8]> {
        match self.taken.get() {
            Some(Content::Copied(copied)) => Some(copied.bytes()),
            _ => None,
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.taken.get() {
            Some(Content::Copied(copied)) => {
                let part = copied.bytes().get(offset..offset + buf.len());
                let part = part.ok_or_else(|| self.changed())?;
                buf.copy_from_slice(part);
                Ok(())
            }
            Some(Content::Live(live)) => {
                let is_same = live.read(self.region, offset, buf)
                    && live.samples.agree(offset, buf, self.region.len);
                if is_same { Ok(()) } else { Err(self.changed()) }
            }
            Some(Content::Staged) => {
                self.owners.await_staged()?;
                self.copy_to(offset, buf)
            }
            None => self.copy_to(offset, buf),
        }
    }
}

/// A save that ends early, well or not, keeps nobody waiting.
impl Drop for LiveBytes {
    fn drop(&mut self) {
        self.capture.sub(*self.unread.get_mut());
    }
}

/// Says when all live memory of a save has been read, so that it may change again.
#[derive(Default)]
pub(crate) struct Capture {
    left: Mutex<usize>,
    done: Condvar,
    /// What is read live, in the order of the file, and where memory for copies comes from.
    live: OnceLock<(Vec<Weak<Snapshot>>, Pool)>,
}

impl Capture {
    fn add(&self, bytes: usize) {
        *held(&self.left) += bytes;
    }

    fn sub(&self, bytes: usize) {
        let mut left = held(&self.left);
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            self.done.notify_all();
        }
    }

    /// From now on `copy_rest` may copy these, whose order is that of the file.
    pub(crate) fn may_copy(&self, live: Vec<Weak<Snapshot>>, pool: Pool) {
        let _ = self.live.set((live, pool));
    }

    /// Copies what is still to be read live, up to `room` bytes, from the end of the file on: the
    /// writer comes from its beginning. That takes less time than to wait until all is on the device.
    ///
    /// `is_held` is whether the interpreter is held and the memory is in place: then it is copied
    /// plainly, which takes half the time.
    pub(crate) fn copy_rest(&self, room: usize, is_held: bool) {
        let read: Read = if is_held { Region::read_held } else { Region::read };
        let Some((live, pool)) = self.live.get() else { return };
        let room = AtomicUsize::new(room);
        let has_room = |len: usize| {
            let left = |room: usize| room.checked_sub(len);
            room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
        };
        // If there is no memory, what is left is waited for.
        let _ = shared_out(live.len(), live.len(), |i| {
            let snapshot = live[live.len() - 1 - i].upgrade();
            match snapshot.filter(|snapshot| snapshot.unread() > 0 && has_room(snapshot.len())) {
                Some(snapshot) => snapshot.copy_now(pool, read),
                None => Ok(()),
            }
        });
    }

    /// Waits at most so long; says whether all has been read.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let left = held(&self.left);
        let waited = self.done.wait_timeout_while(left, limit, |left| *left > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}
