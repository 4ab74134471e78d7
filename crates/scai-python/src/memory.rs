//! Memory that Python owns: read while training may go on, and filled by a load.
//!
//! This is the one place that turns addresses into bytes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use scai_checkpoint::{Error, Place, Result, Source};

use crate::pool::Buffer;

/// What is copied, compared or filled at a time.
pub(crate) const PIECE: usize = 1 << 20;

/// One word in so many bytes is remembered of memory that is read later. An optimizer's step
/// changes all of them; a write to a few elements between two of them is not seen.
const SAMPLED: usize = 4096;

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
    pub(crate) fn read(self, offset: usize, buf: &mut [u8]) -> bool {
        let inside = offset.checked_add(buf.len()).is_some_and(|end| end <= self.len);
        inside && (buf.is_empty() || copy_out(self.address + offset, buf))
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

/// Whether the kernel does not copy memory of this process, as in some sandboxes.
static REFUSED: AtomicBool = AtomicBool::new(false);

#[cfg(target_os = "linux")]
fn copy_out(address: usize, buf: &mut [u8]) -> bool {
    use nix::errno::Errno;
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    use std::io::IoSliceMut;

    if REFUSED.load(Ordering::Relaxed) {
        return copy_plain(address, buf);
    }
    let mut done = 0;
    while done < buf.len() {
        let remote = [RemoteIoVec { base: address + done, len: buf.len() - done }];
        let mut local = [IoSliceMut::new(&mut buf[done..])];
        match process_vm_readv(nix::unistd::Pid::this(), &mut local, &remote) {
            Ok(0) | Err(Errno::EFAULT) => return false,
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(_) => {
                REFUSED.store(true, Ordering::Relaxed);
                return copy_plain(address + done, &mut buf[done..]);
            }
        }
    }
    true
}

#[cfg(not(target_os = "linux"))]
fn copy_out(address: usize, buf: &mut [u8]) -> bool {
    copy_plain(address, buf)
}

#[expect(unsafe_code, reason = "tensors are memory of Python")]
fn copy_plain(address: usize, buf: &mut [u8]) -> bool {
    // SAFETY: the region belongs to a storage that `Snapshot::owner` keeps alive. Another thread
    // may write to it meanwhile; the bytes are then any bytes, which is found out by comparison.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, buf.as_mut_ptr(), buf.len()) };
    true
}

/// The bytes of a tensor's storage, as a source for the writer.
///
/// Each byte is handed over once. What is live is compared with what it was when the save began.
pub(crate) struct Snapshot {
    region: Region,
    /// Keeps the memory alive.
    _owner: Py<PyAny>,
    /// The first tensor that was found to be a view of it.
    name: String,
    taken: OnceLock<Taken>,
}

enum Taken {
    Copied(Buffer),
    Live(Live),
}

struct Live {
    samples: Vec<u64>,
    unread: AtomicUsize,
    capture: std::sync::Arc<Capture>,
}

impl Snapshot {
    pub(crate) fn new(region: Region, owner: Py<PyAny>, name: String) -> Self {
        Self { region, _owner: owner, name, taken: OnceLock::new() }
    }

    pub(crate) fn address(&self) -> usize {
        self.region.address
    }

    pub(crate) fn len(&self) -> usize {
        self.region.len
    }

    /// From now on the bytes are these.
    pub(crate) fn set_copy(&self, bytes: Buffer) {
        let _ = self.taken.set(Taken::Copied(bytes));
    }

    /// Fills a part of a copy with the bytes as they are now.
    pub(crate) fn copy_to(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        if self.region.read(offset, buf) { Ok(()) } else { Err(self.changed()) }
    }

    /// From now on the bytes are read when they are written, and `capture` waits for that.
    pub(crate) fn go_live(&self, capture: &std::sync::Arc<Capture>) -> Result<()> {
        let mut samples = Vec::with_capacity(self.region.len / SAMPLED + 1);
        let mut word = [0; 8];
        for at in (0..self.region.len.saturating_sub(7)).step_by(SAMPLED) {
            if !self.sample(at, &mut word) {
                return Err(self.changed());
            }
            samples.push(u64::from_le_bytes(word));
        }
        capture.add(self.region.len);
        let unread = AtomicUsize::new(self.region.len);
        let _ = self.taken.set(Taken::Live(Live { samples, unread, capture: capture.clone() }));
        Ok(())
    }

    /// Reads a word while the interpreter's owner of the memory waits: nothing unmaps it.
    fn sample(&self, at: usize, word: &mut [u8; 8]) -> bool {
        copy_plain(self.region.address + at, word)
    }

    fn changed(&self) -> Error {
        let place = Place { tensor: Some(self.name.clone()), ..Place::default() };
        Error::Changed { place: Box::new(place) }
    }
}

impl Live {
    /// Whether the words that were remembered are the ones just read.
    fn agrees(&self, offset: usize, bytes: &[u8]) -> bool {
        let first = offset.next_multiple_of(SAMPLED);
        let words = (first..(offset + bytes.len()).saturating_sub(7)).step_by(SAMPLED);
        words.into_iter().all(|at| {
            let word = bytes.get(at - offset..at - offset + 8);
            let expected = self.samples.get(at / SAMPLED).map(|word| word.to_le_bytes());
            word.zip(expected).is_some_and(|(word, expected)| word == expected)
        })
    }
}

impl Source for Snapshot {
    fn len(&self) -> u64 {
        self.region.len as u64
    }

    fn as_slice(&self) -> Option<&[u8]> {
        match self.taken.get() {
            Some(Taken::Copied(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.taken.get() {
            Some(Taken::Copied(bytes)) => {
                let part = bytes.get(offset..offset + buf.len()).ok_or_else(|| self.changed())?;
                buf.copy_from_slice(part);
                Ok(())
            }
            Some(Taken::Live(live)) => {
                if !self.region.read(offset, buf) || !live.agrees(offset, buf) {
                    return Err(self.changed());
                }
                live.unread.fetch_sub(buf.len(), Ordering::Relaxed);
                live.capture.sub(buf.len());
                Ok(())
            }
            None => self.copy_to(offset, buf),
        }
    }
}

/// A save that ends early, well or not, keeps nobody waiting.
impl Drop for Live {
    fn drop(&mut self) {
        self.capture.sub(*self.unread.get_mut());
    }
}

/// Says when all live memory of a save has been read, so that it may change again.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    left: Mutex<usize>,
    done: Condvar,
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

    pub(crate) fn is_done(&self) -> bool {
        *held(&self.left) == 0
    }

    /// Waits at most so long; says whether all has been read.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let left = held(&self.left);
        let waited = self.done.wait_timeout_while(left, limit, |left| *left > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
