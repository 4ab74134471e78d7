//! Filling memory with the bytes of storages, by several threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::storage::{Pass, Storage};
use crate::CHUNK_SIZE;
use crate::error::{Error, Result};
use crate::threads::{held, on_threads};

/// Bytes of a long storage that a thread takes at a time: whole chunks.
pub(crate) const PIECE: u64 = 64 * CHUNK_SIZE as u64;

/// Memory that is to hold the bytes of a storage.
#[derive(Debug)]
pub struct Destination<'a> {
    /// What errors call it: the path of the tensor in the state tree.
    pub name: &'a str,
    /// Where the bytes come from.
    pub storage: &'a Storage,
    /// Where they go: as long as the storage.
    pub bytes: &'a mut [u8],
}

/// Fills each destination with all bytes of its storage, which are checked in the same pass.
///
/// `threads` threads share the work, also that of a single long storage. Bytes on disk are read
/// straight into the destination, each once. `progress` is told how many further bytes are there.
///
/// # Errors
/// [`Error::Invalid`] where a destination is not as long as its storage; nothing was written then.
/// [`Error::Damaged`] where bytes are not those that were saved, and [`Error::Io`] where they
/// cannot be read: then all destinations hold nothing of use.
pub fn read_into(
    destinations: Vec<Destination<'_>>,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    for Destination { name, storage, bytes } in &destinations {
        if bytes.len() as u64 != storage.len() {
            return Err(Error::invalid(format!(
                "`{name}`: {} bytes cannot hold a storage of {}",
                bytes.len(),
                storage.len()
            )));
        }
    }
    let divided: Vec<Option<Divided<'_>>> = destinations.iter().map(Divided::new).collect();
    let mut tasks = Vec::with_capacity(destinations.len());
    for (Destination { name, storage, bytes }, divided) in destinations.into_iter().zip(&divided) {
        match divided {
            None => tasks.push((Task::Whole(name, storage), bytes)),
            Some(divided) => {
                let pieces = bytes.chunks_mut(PIECE as usize).enumerate();
                tasks.extend(
                    pieces.map(|(i, bytes)| (Task::Piece(divided, i as u64 * PIECE), bytes)),
                );
            }
        }
    }
    let threads = threads.min(tasks.len());
    let tasks = Mutex::new(tasks.into_iter());
    let outcome = Mutex::new(Ok(()));
    on_threads(threads, || {
        while held(&outcome).is_ok() {
            let Some((task, bytes)) = held(&tasks).next() else { break };
            match task.read(bytes) {
                Ok(()) => progress(bytes.len() as u64),
                Err(error) => {
                    let mut outcome = held(&outcome);
                    if outcome.is_ok() {
                        *outcome = Err(error);
                    }
                }
            }
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A storage whose bytes are read in pieces.
struct Divided<'a> {
    name: &'a str,
    pass: Box<dyn Pass + 'a>,
    /// Pieces that were not read yet.
    left: AtomicUsize,
}

impl<'a> Divided<'a> {
    fn new(destination: &Destination<'a>) -> Option<Self> {
        let pieces = destination.storage.len().div_ceil(PIECE) as usize;
        (pieces > 1).then(|| Self {
            name: destination.name,
            pass: destination.storage.pass(),
            left: AtomicUsize::new(pieces),
        })
    }
}

/// What a thread reads at a time.
enum Task<'a> {
    Whole(&'a str, &'a Storage),
    Piece(&'a Divided<'a>, u64),
}

impl Task<'_> {
    fn read(&self, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Whole(name, storage) => {
                storage.read_at(0, bytes).map_err(|error| error.at_tensor(*name))
            }
            Self::Piece(Divided { name, pass, left }, offset) => {
                pass.read(*offset, bytes).map_err(|error| error.at_tensor(*name))?;
                match left.fetch_sub(1, Ordering::AcqRel) {
                    1 => pass.finish().map_err(|error| error.at_tensor(*name)),
                    _ => Ok(()),
                }
            }
        }
    }
}
