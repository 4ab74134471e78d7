//! Verifying records, in pieces that several threads take in any order.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::record::{Check, RecordSource, STEP, Seen};
use crate::CHUNK_SIZE;
use crate::error::Error;
use crate::read_options::ReadOptions;
use crate::tensor::PIECE;
use crate::threads::{held, on_threads};
use crate::value::Value;

/// A record that is being verified.
struct Verifying<'a> {
    record: &'a RecordSource,
    state: Mutex<State>,
    /// The file was dropped from the page cache.
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
    /// Reads a piece through `buf`, and notes what is wrong with it; with the last piece, also what
    /// is wrong with the whole.
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

    /// Compares digests with those of the chunks from `start` on, if each chunk has one, and then
    /// drops them.
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
    /// checkpoint must not be reported as damaged.
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

/// Checks every byte of the records against their digests, or their CRC-32 if there are none, and
/// returns all that is wrong in the order of the file. After a read error, the rest of that record
/// is skipped. Begins with [`Error::Cancelled`] if it was cancelled.
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
