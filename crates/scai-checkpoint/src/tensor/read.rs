//! Filling memory with the bytes of storages, by several threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::storage::{Pass, Storage};
use crate::CHUNK_SIZE;
use crate::error::{Error, Result};
use crate::memory::{check, zeroed};
use crate::read_options::ReadOptions;
use crate::threads::{held, on_threads};

/// Bytes of a long storage that a thread takes at a time: whole chunks.
pub(crate) const PIECE: u64 = 32 * CHUNK_SIZE as u64;

/// Memory that is to hold the bytes of a storage.
#[derive(Debug)]
pub struct Destination<'a> {
    /// What errors call it: the path of the tensor in the state tree.
    pub name: &'a str,
    /// Where the bytes come from.
    pub storage: &'a Storage,
    /// The destination: as long as the storage.
    pub bytes: &'a mut [u8],
    /// Whether nothing was ever written there. The system is then asked for the memory as a whole,
    /// not page by page.
    pub is_new: bool,
}

/// Fills each destination with all bytes of its storage, and checks them as they are read.
///
/// The threads share the work, also that of a single long storage. Bytes on disk are read once.
///
/// # Errors
/// [`Error::Invalid`] if a destination is not as long as its storage; nothing is written then.
/// [`Error::Damaged`] if bytes are not those that were saved, and [`Error::Io`] if they cannot be
/// read: the contents of all destinations are then unspecified, as after [`Error::Cancelled`].
pub fn read_into<'o>(
    destinations: Vec<Destination<'_>>,
    options: impl Into<ReadOptions<'o>>,
) -> Result<()> {
    for Destination { name, storage, bytes, .. } in &destinations {
        if bytes.len() as u64 != storage.len() {
            return Err(Error::invalid(format!(
                "`{name}`: {} bytes cannot hold a storage of {} bytes",
                bytes.len(),
                storage.len()
            )));
        }
    }
    let names: Vec<&str> = destinations.iter().map(|to| to.name).collect();
    let to = destinations.into_iter().map(|to| (to.storage, to.bytes, to.is_new));
    read_all(to.collect(), &options.into()).map_err(|(index, error)| error.at_tensor(names[index]))
}

/// Fills new memory with all bytes of each storage, as [`read_into`].
///
/// # Errors
/// As [`read_into`], with the number of the storage.
pub(crate) fn read_storages(
    storages: &[&Storage],
    memory: &mut [Box<[u8]>],
    options: &ReadOptions<'_>,
) -> Result<(), (usize, Error)> {
    let to = storages.iter().zip(memory).map(|(storage, bytes)| (*storage, &mut **bytes, true));
    read_all(to.collect(), options)
}

/// What is to be read, where to, and whether that is new.
type To<'a> = (&'a Storage, &'a mut [u8], bool);

fn read_all(to: Vec<To<'_>>, options: &ReadOptions<'_>) -> Result<(), (usize, Error)> {
    let divided: Vec<Option<Divided<'_>>> =
        to.iter().map(|(storage, ..)| divides(storage).then(|| Divided::new(storage))).collect();
    let mut tasks = Vec::with_capacity(to.len());
    for (index, ((storage, bytes, is_new), divided)) in to.into_iter().zip(&divided).enumerate() {
        match divided {
            None => tasks.push(Task { index, part: Part::Whole(storage), bytes, is_new }),
            Some(divided) => tasks.extend(pieces(index, divided, bytes, is_new)),
        }
    }
    do_all(tasks, options)
}

/// Whether a storage is read in pieces.
fn divides(storage: &Storage) -> bool {
    storage.len() > PIECE
}

/// All bytes of a storage, read by several threads if it is long.
///
/// # Errors
/// As [`Storage::read_at`].
pub(super) fn read_whole(storage: &Storage) -> Result<Vec<u8>> {
    if !divides(storage) {
        return storage.read(0..storage.len());
    }
    let mut bytes = zeroed(storage.len(), "read a tensor")?;
    let divided = Divided::new(storage);
    do_all(pieces(0, &divided, &mut bytes, true).collect(), &ReadOptions::default())
        .map_err(|(_, error)| error)?;
    Ok(bytes.into_vec())
}

fn pieces<'a>(
    index: usize,
    divided: &'a Divided<'a>,
    bytes: &'a mut [u8],
    is_new: bool,
) -> impl Iterator<Item = Task<'a>> {
    let pieces = bytes.chunks_mut(PIECE as usize).zip((0..).step_by(PIECE as usize));
    pieces.map(move |(bytes, start)| Task {
        index,
        part: Part::Piece(divided, start),
        bytes,
        is_new,
    })
}

fn do_all(tasks: Vec<Task<'_>>, options: &ReadOptions<'_>) -> Result<(), (usize, Error)> {
    let threads = options.thread_count().min(tasks.len());
    let tasks = Mutex::new(tasks.into_iter());
    let outcome = Mutex::new(Ok(()));
    on_threads(threads, || {
        while held(&outcome).is_ok() {
            let Some(mut task) = held(&tasks).next() else { break };
            match options.check().and_then(|()| task.read()) {
                Ok(()) => options.report(task.bytes.len() as u64),
                Err(error) => {
                    let mut outcome = held(&outcome);
                    if outcome.is_ok() {
                        *outcome = Err((task.index, error));
                    }
                }
            }
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Has the system provide new memory at once, in two thirds of the time that page by page takes.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn provide(bytes: &mut [u8]) {
    use rustix::mm::{Advice, madvise};

    let page = rustix::param::page_size();
    let start = bytes.as_mut_ptr().addr().next_multiple_of(page) - bytes.as_ptr().addr();
    let Some(len) = bytes.len().checked_sub(start).map(|len| len - len % page) else { return };
    if len > 0 {
        let pages = bytes[start..start + len].as_mut_ptr();
        #[expect(unsafe_code, reason = "the standard library knows nothing of pages")]
        // SAFETY: the pages are borrowed, and what they hold does not change.
        let _ = unsafe { madvise(pages.cast(), len, Advice::LinuxPopulateWrite) };
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn provide(_bytes: &mut [u8]) {}

/// A storage that is read in pieces, by any threads.
pub(crate) struct Divided<'a> {
    pass: Box<dyn Pass + 'a>,
    /// Bytes that were not read yet.
    left: AtomicU64,
}

impl<'a> Divided<'a> {
    pub(crate) fn new(storage: &'a Storage) -> Self {
        Self { pass: storage.pass(), left: AtomicU64::new(storage.len()) }
    }

    /// As [`Pass::read`]; with the last bytes left, also [`Pass::finish`].
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.pass.read(offset, buf)?;
        let len = buf.len() as u64;
        if self.left.fetch_sub(len, Ordering::AcqRel) == len { self.pass.finish() } else { Ok(()) }
    }
}

/// What a thread reads at a time.
struct Task<'a> {
    /// The number of what is read.
    index: usize,
    part: Part<'a>,
    bytes: &'a mut [u8],
    is_new: bool,
}

enum Part<'a> {
    Whole(&'a Storage),
    Piece(&'a Divided<'a>, u64),
}

impl Task<'_> {
    fn read(&mut self) -> Result<()> {
        if self.is_new {
            provide(self.bytes);
        }
        check("read")?;
        match self.part {
            Part::Whole(storage) => storage.read_at(0, self.bytes),
            Part::Piece(divided, offset) => divided.read(offset, self.bytes),
        }
    }
}
