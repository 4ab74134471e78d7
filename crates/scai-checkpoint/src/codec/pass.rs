//! Reading records whole, in pieces that several threads take in any order.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use twox_hash::XxHash3_128;

use super::digest::{combine_crc, fold};
use super::record::{Check, MISMATCH, MISMATCH_CRC, RecordSource, STEP};
use crate::CHUNK_SIZE;
use crate::error::{Error, Result};
use crate::read_options::ReadOptions;
use crate::tensor::{PIECE, Pass};
use crate::threads::{held, on_threads};
use crate::value::Value;

/// What is known of a run of bytes of a record once it was read.
#[derive(Debug)]
pub(super) struct Seen {
    start: u64,
    pub(super) len: u64,
    crc: crc32fast::Hasher,
    digests: Vec<u128>,
}

impl Seen {
    /// Nothing yet, of a run that begins with the chunk at `start`.
    pub(super) fn from(start: u64) -> Self {
        Self { start, len: 0, crc: crc32fast::Hasher::new(), digests: Vec::new() }
    }

    /// Reads the bytes that follow, whole chunks or up to the end of the record, and hashes them
    /// while they are in the cache.
    pub(super) fn read(&mut self, record: &RecordSource, buf: &mut [u8]) -> Result<()> {
        let with_digests = !matches!(record.check, Check::Nothing);
        // Where there are digests, the CRC-32 is covered by the root.
        let with_crc = matches!(record.check, Check::Crc(_));
        for step in buf.chunks_mut(STEP) {
            record.read(self.start + self.len, step)?;
            for chunk in step.chunks(CHUNK_SIZE) {
                if with_crc {
                    self.crc.update(chunk);
                }
                if with_digests {
                    self.digests.push(XxHash3_128::oneshot(chunk));
                }
            }
            self.len += step.len() as u64;
        }
        Ok(())
    }
}

impl RecordSource {
    /// Compares all that was seen of the record with what is kept of the whole, and remembers the
    /// digests of its chunks if it was right.
    pub(super) fn check_whole(&self, mut seen: Vec<Seen>) -> Result<()> {
        seen.sort_unstable_by_key(|seen| seen.start);
        let crc = combine_crc(seen.iter().map(|seen| &seen.crc));
        let found: Vec<u128> = seen.into_iter().flat_map(|seen| seen.digests).collect();
        let known = match &self.check {
            Check::Folded(expected, _) if fold(&found) != *expected => {
                return Err(self.whole_damaged(MISMATCH));
            }
            Check::Crc(_) if self.crc.is_some_and(|expected| crc != expected) => {
                return Err(self.whole_damaged(MISMATCH_CRC));
            }
            Check::Folded(_, known) | Check::Crc(known) => known,
            // Each chunk was compared with its own digest.
            Check::Chunks(..) | Check::Nothing => return Ok(()),
        };
        let _ = known.set(found);
        Ok(())
    }
}

/// A pass over a record that has one checksum for the whole.
#[derive(Debug)]
pub(super) struct WholePass<'a> {
    record: &'a RecordSource,
    seen: Mutex<Vec<Seen>>,
}

impl<'a> WholePass<'a> {
    pub(super) fn new(record: &'a RecordSource) -> Self {
        Self { record, seen: Mutex::default() }
    }
}

impl Pass for WholePass<'_> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut seen = Seen::from(offset);
        seen.read(self.record, buf)?;
        held(&self.seen).push(seen);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.record.check_whole(std::mem::take(&mut *held(&self.seen)))
    }
}

/// A record that is being verified.
struct Verifying<'a> {
    record: &'a RecordSource,
    state: Mutex<State>,
    /// What the system kept of the file in memory was dropped.
    forgotten: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Pieces that were not read yet.
    left: usize,
    seen: Vec<Seen>,
    damage: Vec<Error>,
    /// It cannot be read; once is enough.
    unreadable: bool,
}

impl Verifying<'_> {
    /// Reads a piece through `buf`, and notes what is wrong with it; the last piece also what is
    /// wrong with the whole.
    fn piece(&self, start: u64, buf: &mut [u8], options: &ReadOptions<'_>) {
        let end = (start + PIECE).min(self.record.size);
        let mut seen = Seen::from(start);
        let mut damage = Vec::new();
        for at in (start..end).step_by(STEP) {
            let step = &mut buf[..(end - at).min(STEP as u64) as usize];
            let unreadable = held(&self.state).unreadable;
            if unreadable {
                break;
            }
            if let Err(error) = seen.read(self.record, step) {
                let mut state = held(&self.state);
                if !state.unreadable {
                    state.unreadable = true;
                    damage.push(error);
                }
                break;
            }
            self.compare(at, &mut seen.digests, &mut damage);
            options.report(step.len() as u64);
        }
        let mut state = held(&self.state);
        state.damage.extend(damage);
        state.seen.push(seen);
        state.left -= 1;
        if state.left == 0 && state.damage.is_empty() {
            let seen = std::mem::take(&mut state.seen);
            let damage = self.record.check_whole(seen).err();
            state.damage.extend(damage.filter(|_| !self.is_right_again()));
        }
    }

    /// Compares digests with those of the chunks from `start` on, where each chunk has one, and
    /// drops them then.
    fn compare(&self, start: u64, found: &mut Vec<u128>, damage: &mut Vec<Error>) {
        let Check::Chunks(table, range) = &self.record.check else { return };
        let expected = table.get(range.clone()).unwrap_or_default();
        let first = (start / CHUNK_SIZE as u64) as usize;
        for (i, digest) in found.drain(..).enumerate() {
            let (at, expected) = (start + (i * CHUNK_SIZE) as u64, expected.get(first + i));
            if expected != Some(&digest) && !self.matches_again(at, expected) {
                damage.push(self.record.chunk_damaged(at));
            }
        }
    }

    /// Reads a chunk once more, from the device: a bit may have flipped on the way here, and a sound
    /// checkpoint must not be called damaged.
    fn matches_again(&self, at: u64, expected: Option<&u128>) -> bool {
        self.forget_cached();
        self.record.matches_again(at, expected)
    }

    fn is_right_again(&self) -> bool {
        self.forget_cached();
        self.record.is_right_again()
    }

    /// Once is enough, however much of it is damaged.
    fn forget_cached(&self) {
        if !self.forgotten.swap(true, Ordering::Relaxed) {
            self.record.file.forget_cached();
        }
    }
}

/// Checks every byte of the records against their digests, or their CRC-32 where there are none,
/// and returns all that is wrong in the order of the file. A record that cannot be read is not read
/// on. Begins with [`Error::Cancelled`] if it was cancelled.
///
/// Each thread holds [`STEP`] bytes, however long the records are.
pub(super) fn verify_all(records: &[&RecordSource], options: &ReadOptions<'_>) -> Vec<Error> {
    let pieces = |record: &RecordSource| record.size.div_ceil(PIECE).max(1);
    let verifying: Vec<Verifying<'_>> = records
        .iter()
        .map(|record| {
            let left = pieces(record) as usize;
            let state = Mutex::new(State { left, ..State::default() });
            Verifying { record, state, forgotten: AtomicBool::default() }
        })
        .collect();
    let tasks: Vec<(&Verifying<'_>, u64)> = verifying
        .iter()
        .flat_map(|one| (0..pieces(one.record)).map(move |piece| (one, piece * PIECE)))
        .collect();
    let next = AtomicUsize::new(0);
    on_threads(options.thread_count().min(tasks.len()), || {
        let mut buf = vec![0; STEP];
        while options.check().is_ok()
            && let Some((one, start)) = tasks.get(next.fetch_add(1, Ordering::Relaxed))
        {
            one.piece(*start, &mut buf, options);
        }
    });
    let mut found: Vec<Error> =
        verifying.iter().flat_map(|one| std::mem::take(&mut held(&one.state).damage)).collect();
    found.sort_by_key(|error: &Error| {
        error.place().and_then(|place| place.bytes.clone()).map_or(0, |bytes| bytes.start)
    });
    options.check().err().into_iter().chain(found).collect()
}

/// Adds the names of tensors to damage that names records only.
pub(super) fn name_tensors(damage: Vec<Error>, tree: &Value) -> Vec<Error> {
    let names: HashMap<&str, String> = tree
        .storages()
        .into_iter()
        .filter_map(|(name, storage)| Some((storage.record()?, name)))
        .collect();
    let named = damage.into_iter().map(|error| {
        let record = error.place().and_then(|place| place.record.as_deref());
        match record.and_then(|record| names.get(record)) {
            Some(name) => error.at_tensor(name),
            None => error,
        }
    });
    named.collect()
}
