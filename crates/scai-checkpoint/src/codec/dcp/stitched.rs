//! The bytes of a tensor whose regions are in several items.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use super::metadata::{Chunk, Location};
use super::region::Runs;
use super::shards::Shards;
use crate::error::{Error, Result};
use crate::tensor::{DType, Pass, PlainPass, Source, Storage, Tensor, read_away};
use crate::threads::held;

/// Bytes of short runs that are read at a time.
const GATHERED: u64 = 1 << 20;
/// Regions in another order than row-major are copied; so many bytes of copies are kept, or one.
const COPIES: usize = 64 << 20;

/// A tensor in row-major order, of which only what is asked for is read.
pub(super) struct Stitched {
    shards: Arc<Shards>,
    /// What errors call it.
    name: String,
    dtype: DType,
    len: u64,
    /// In the order in which they begin.
    parts: Vec<Part>,
}

/// A region: where its bytes belong, and the item that has them.
struct Part {
    runs: Runs,
    sizes: Box<[u64]>,
    at: Location,
    /// The tensor in the item, once that was opened.
    piece: OnceLock<Tensor>,
}

/// Copies of regions in row-major order, the last used last.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<VecDeque<(Location, Arc<Vec<u8>>)>>);

impl Copies {
    fn get(&self, at: Location, tensor: &Tensor) -> Result<Arc<Vec<u8>>> {
        let mut copies = held(&self.0);
        if let Some(found) = copies.iter().position(|(known, _)| *known == at)
            && let Some(copy) = copies.remove(found)
        {
            let bytes = Arc::clone(&copy.1);
            copies.push_back(copy);
            return Ok(bytes);
        }
        // Under the lock, so that two threads do not make the same copy.
        let bytes = Arc::new(tensor.to_bytes()?);
        copies.push_back((at, Arc::clone(&bytes)));
        while copies.len() > 1 && copies.iter().map(|(_, copy)| copy.len()).sum::<usize>() > COPIES
        {
            copies.pop_front();
        }
        Ok(bytes)
    }
}

impl Stitched {
    /// The tensor `name` of `len` bytes, of which `chunks` cover every element once.
    pub(super) fn new(
        shards: &Arc<Shards>,
        name: String,
        dtype: DType,
        shape: &[u64],
        chunks: &[&Chunk],
        len: u64,
    ) -> Self {
        let parts = chunks.iter().map(|chunk| Part {
            runs: Runs::new(shape, chunk, dtype.size() as u64),
            sizes: chunk.sizes.as_slice().into(),
            at: chunk.at,
            piece: OnceLock::new(),
        });
        let mut parts: Vec<Part> = parts.collect();
        parts.sort_by_key(|part| part.runs.begin);
        Self { shards: Arc::clone(shards), name, dtype, len, parts }
    }

    fn piece<'a>(&self, part: &'a Part) -> Result<&'a Tensor> {
        if let Some(piece) = part.piece.get() {
            return Ok(piece);
        }
        let shard = self.shards.shard(part.at)?;
        let unprotected = self.shards.unprotected();
        let piece = shard.tensor(part.at, unprotected, self.dtype, &part.sizes)?;
        Ok(part.piece.get_or_init(|| piece))
    }

    /// Fills `buf` with the bytes of a region from `offset` on, in row-major order.
    fn read_part(&self, part: &Part, offset: u64, buf: &mut [u8]) -> Result<()> {
        let piece = self.piece(part)?;
        if piece.is_contiguous() {
            let begin = (piece.offset() * piece.dtype().size()) as u64;
            return piece
                .storage()
                .read_at(begin + offset, buf)
                .map_err(|error| self.in_item(part.at, error));
        }
        let copy = self.shards.copies().get(part.at, piece)?;
        let from = usize::try_from(offset).ok();
        let bytes = from.and_then(|from| copy.get(from..from.checked_add(buf.len())?));
        buf.copy_from_slice(bytes.ok_or_else(|| Error::invalid("a region is too short"))?);
        Ok(())
    }

    /// Puts what a region has of the bytes from `offset` on where it belongs in `buf`.
    fn place(&self, part: &Part, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = offset..offset + buf.len() as u64;
        let Runs { len, .. } = part.runs;
        let runs = part.runs.within(&range);
        let at_once = (GATHERED / len.max(1)).max(1);
        let mut run = runs.start;
        while run < runs.end {
            let last = (run + at_once).min(runs.end) - 1;
            let first = overlap(&range, part.runs.start(run), len);
            let end = overlap(&range, part.runs.start(last), len);
            let from = run * len + (first.start - part.runs.start(run));
            let to = last * len + (end.end - part.runs.start(last));
            let target =
                |bytes: &Range<u64>| (bytes.start - offset) as usize..(bytes.end - offset) as usize;
            if run == last {
                self.read_part(part, from, &mut buf[target(&first)])?;
            } else {
                let mut gathered = vec![0; (to - from) as usize];
                self.read_part(part, from, &mut gathered)?;
                let mut rest = gathered.as_slice();
                for run in run..=last {
                    let bytes = overlap(&range, part.runs.start(run), len);
                    let (now, after) = rest.split_at((bytes.end - bytes.start) as usize);
                    buf[target(&bytes)].copy_from_slice(now);
                    rest = after;
                }
            }
            run = last + 1;
        }
        Ok(())
    }

    /// The storage of the item that is the whole tensor, if one is.
    fn whole(&self) -> Option<&Storage> {
        let [part] = self.parts.as_slice() else { return None };
        let piece = self.piece(part).ok()?;
        let is_whole = piece.is_contiguous() && piece.storage().len() == self.len;
        is_whole.then(|| piece.storage())
    }

    fn located(&self, error: Error) -> Error {
        self.shards.located(error.at_tensor(&self.name))
    }

    fn in_item(&self, at: Location, error: Error) -> Error {
        match self.shards.shard(at) {
            Ok(shard) => shard.in_item(at, error),
            Err(missing) => missing,
        }
    }
}

/// What a run that begins at `start` has of a range.
fn overlap(range: &Range<u64>, start: u64, len: u64) -> Range<u64> {
    start.max(range.start)..(start + len).min(range.end)
}

impl Source for Stitched {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        for part in &self.parts {
            self.place(part, offset, buf).map_err(|error| self.located(error))?;
        }
        Ok(())
    }

    fn check(&self, range: Range<u64>) -> Result<()> {
        match (self.whole(), self.parts.as_slice()) {
            (Some(storage), [part]) => {
                let checked = storage.check(range);
                checked.map_err(|error| self.located(self.in_item(part.at, error)))
            }
            _ => read_away(self, range),
        }
    }

    fn pass(&self) -> Box<dyn Pass + '_> {
        match (self.whole(), self.parts.as_slice()) {
            (Some(storage), [part]) => {
                Box::new(WholePass { stitched: self, at: part.at, pass: storage.pass() })
            }
            _ => Box::new(PlainPass(self)),
        }
    }

    fn digests(&self) -> Option<&[u128]> {
        self.whole()?.digests()
    }

    fn digest(&self) -> Option<u128> {
        self.whole()?.digest()
    }
}

/// A checked read of a tensor that is one item.
struct WholePass<'a> {
    stitched: &'a Stitched,
    at: Location,
    pass: Box<dyn Pass + 'a>,
}

impl WholePass<'_> {
    fn located<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.stitched.located(self.stitched.in_item(self.at, error)))
    }
}

impl Pass for WholePass<'_> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.located(self.pass.read(offset, buf))
    }

    fn finish(&self) -> Result<()> {
        self.located(self.pass.finish())
    }
}
