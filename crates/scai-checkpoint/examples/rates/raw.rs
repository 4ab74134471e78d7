//! The same work without the engine: what the disk and the memory can do.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};

const PIECE: usize = 4 << 20;
const STEP: usize = 256 << 10;
const PAGE: usize = 4096;

/// Reserves, writes past the page cache, syncs. Each writer has its pieces ready in memory at the
/// start of a page: nothing but the writing is measured.
pub(super) fn write_direct(path: &Path, bytes: &[&[u8]], writers: usize) -> Duration {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().write(true).create(true).custom_flags(direct).open(path).unwrap();
    let pieces: Vec<&[u8]> = bytes.iter().flat_map(|bytes| bytes.chunks(PIECE)).collect();
    let len = (pieces.len() * PIECE) as u64;
    let mut buffers: Vec<Vec<u8>> = vec![vec![0; PIECE + PAGE]; writers];
    for (buffer, piece) in buffers.iter_mut().zip(&pieces) {
        let start = buffer.as_ptr().align_offset(PAGE);
        buffer[start..start + PIECE].copy_from_slice(piece);
    }
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    fallocate(&file, FallocateFlags::empty(), 0, len).unwrap();
    std::thread::scope(|scope| {
        for buffer in &buffers {
            scope.spawn(|| {
                let at = buffer.as_ptr().align_offset(PAGE);
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= pieces.len() {
                        break;
                    }
                    file.write_all_at(&buffer[at..at + PIECE], (i * PIECE) as u64).unwrap();
                }
            });
        }
    });
    file.sync_all().unwrap();
    start.elapsed()
}

/// Takes a file, which is synced, out of the page cache.
pub(super) fn forget(path: &Path) {
    fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
}

/// Reads a file past the page cache, and does nothing with what was read.
pub(super) fn read_direct(path: &Path, readers: usize) -> Duration {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(direct).open(path).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    let mut buffers: Vec<Vec<u8>> = vec![vec![1; PIECE + PAGE]; readers];
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for buffer in &mut buffers {
            scope.spawn(|| {
                let begin = buffer.as_ptr().align_offset(PAGE);
                let buffer = &mut buffer[begin..begin + PIECE];
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) * PIECE;
                    if at >= len {
                        break;
                    }
                    // Past the end of the file there is nothing to read.
                    let end = (at + PIECE).min(len);
                    let mut done = at;
                    while done < end {
                        done += file.read_at(&mut buffer[done - at..], done as u64).unwrap();
                    }
                }
            });
        }
    });
    start.elapsed()
}

/// Reads a file by several threads through small buffers, and does something with each.
pub(super) fn read(path: &Path, threads: usize, see: impl Fn(&[u8]) + Sync) -> Duration {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0; STEP];
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) * PIECE;
                    if at >= len {
                        break;
                    }
                    for at in (at..(at + PIECE).min(len)).step_by(STEP) {
                        let step = &mut buffer[..STEP.min(len - at)];
                        file.read_exact_at(step, at as u64).unwrap();
                        see(step);
                    }
                }
            });
        }
    });
    start.elapsed()
}

/// Reads a file into memory, tensor by tensor, and checks nothing.
pub(super) fn read_into(path: &Path, to: &mut [Vec<u8>], threads: usize) -> Duration {
    let file = File::open(path).unwrap();
    let pieces = to.iter_mut().flat_map(|to| to.chunks_mut(PIECE)).enumerate();
    let pieces = Mutex::new(pieces);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let piece = pieces.lock().unwrap().next();
                    let Some((i, piece)) = piece else { break };
                    for (j, step) in piece.chunks_mut(STEP).enumerate() {
                        file.read_exact_at(step, (i * PIECE + j * STEP) as u64).unwrap();
                    }
                }
            });
        }
    });
    start.elapsed()
}

/// The digests of the chunks of a step, folded.
pub(super) fn hash(step: &[u8]) -> u128 {
    let chunks = step.chunks(scai_checkpoint::CHUNK_SIZE);
    chunks.map(twox_hash::XxHash3_128::oneshot).fold(0, |all, one| all ^ one)
}

/// Copies memory to memory by several threads.
pub(super) fn copy(from: &[&[u8]], to: &mut [Vec<u8>], threads: usize) -> Duration {
    let start = Instant::now();
    let tasks =
        from.iter().zip(to).flat_map(|(from, to)| from.chunks(PIECE).zip(to.chunks_mut(PIECE)));
    let tasks = Mutex::new(tasks);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let task = tasks.lock().unwrap().next();
                    let Some((from, to)) = task else { break };
                    to.copy_from_slice(from);
                }
            });
        }
    });
    start.elapsed()
}
