//! Reading an object: blocks are fetched several at a time, and kept in a file without a name.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use object_store::ObjectStoreExt;
use object_store::path::Path;
use rustix::fs::{Mode, OFlags};

use super::Remote;
use super::failed::as_io;
use super::runtime;
use crate::store::{ReadAt, Stamp};
use crate::threads::held;

/// Bytes that are asked for at once.
const BLOCK: u64 = 4 << 20;
/// Blocks that are fetched before they are asked for, if those before them were.
const AHEAD: u64 = 6;

/// An object that is read where it is needed, each byte once.
///
/// What was fetched is kept in a file without a name in the directory for temporary files, so that checking a
/// checkpoint and then loading it fetches it once. Without room there, it is fetched again.
#[derive(Debug)]
pub(super) struct Object {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    remote: Arc<dyn Remote>,
    path: Path,
    url: String,
    len: u64,
    stamp: Stamp,
    /// Where blocks are kept; `None` where no such file can be made.
    kept: Option<File>,
    blocks: Mutex<Blocks>,
    /// A block has arrived, or could not be fetched.
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Blocks {
    there: HashSet<u64>,
    fetching: HashSet<u64>,
    /// Counts how often they were forgotten, so that what was asked for before that is not kept.
    round: u64,
}

impl Object {
    /// The object at `path`, of `len` bytes, of which nothing is read yet.
    pub(super) fn new(
        remote: Arc<dyn Remote>,
        path: Path,
        url: String,
        len: u64,
        stamp: Stamp,
    ) -> Self {
        let kept = if len > 0 { nameless().ok() } else { None };
        let (blocks, arrived) = Default::default();
        Self { inner: Arc::new(Inner { remote, path, url, len, stamp, kept, blocks, arrived }) }
    }
}

/// A file that is gone when it is closed.
fn nameless() -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

impl Inner {
    fn block(&self, number: u64) -> std::ops::Range<u64> {
        number * BLOCK..((number + 1) * BLOCK).min(self.len)
    }

    async fn fetch(&self, range: std::ops::Range<u64>) -> io::Result<bytes::Bytes> {
        let len = range.end - range.start;
        let bytes = self.remote.get_range(&self.path, range).await.map_err(as_io)?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Fetches a block in the background, unless it is there or on its way.
    fn begin(self: &Arc<Self>, number: u64, blocks: &mut Blocks) {
        if number * BLOCK >= self.len
            || blocks.there.contains(&number)
            || !blocks.fetching.insert(number)
        {
            return;
        }
        let (inner, round) = (Arc::clone(self), blocks.round);
        let Ok(runtime) = runtime::handle() else {
            blocks.fetching.remove(&number);
            return;
        };
        runtime.spawn(async move {
            let range = inner.block(number);
            let begin = range.start;
            let fetched = inner.fetch(range).await.ok();
            // A page cache takes it; the device is not waited for.
            let is_kept = match (&inner.kept, fetched) {
                (Some(kept), Some(bytes)) => kept.write_all_at(&bytes, begin).is_ok(),
                _ => false,
            };
            let mut blocks = held(&inner.blocks);
            blocks.fetching.remove(&number);
            if is_kept && blocks.round == round {
                blocks.there.insert(number);
            }
            drop(blocks);
            inner.arrived.notify_all();
        });
    }

    /// Reads a part of a block.
    fn read(self: &Arc<Self>, number: u64, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(kept) = &self.kept else { return self.read_past(offset, buf) };
        let mut blocks = held(&self.blocks);
        if !blocks.there.contains(&number) {
            let is_in_order = number == 0
                || blocks.there.contains(&(number - 1))
                || blocks.fetching.contains(&(number - 1));
            let last = if is_in_order { number + AHEAD } else { number };
            for each in number..=last {
                self.begin(each, &mut blocks);
            }
            while blocks.fetching.contains(&number) {
                let waited = self.arrived.wait(blocks);
                blocks = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
        let is_there = blocks.there.contains(&number);
        drop(blocks);
        // What failed is asked for again, so that its error is said.
        if is_there { kept.read_exact_at(buf, offset) } else { self.read_past(offset, buf) }
    }

    fn read_past(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = runtime::wait(self.fetch(offset..offset + buf.len() as u64))??;
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

impl ReadAt for Object {
    fn len(&self) -> u64 {
        self.inner.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inner = &self.inner;
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > inner.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let number = at / BLOCK;
            let len = rest.len().min((inner.block(number).end - at) as usize);
            let (now, after) = rest.split_at_mut(len);
            inner.read(number, at, now)?;
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn forget_cached(&self) {
        let mut blocks = held(&self.inner.blocks);
        blocks.there.clear();
        blocks.round += 1;
    }

    fn path(&self) -> Option<PathBuf> {
        Some(PathBuf::from(&self.inner.url))
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(self.inner.stamp)
    }
}

/// The bytes of a small object, which were read when it was opened.
#[derive(Debug)]
pub(super) struct Small {
    pub(super) bytes: bytes::Bytes,
    pub(super) url: String,
    pub(super) stamp: Stamp,
}

impl ReadAt for Small {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let part = from.and_then(|from| self.bytes.get(from..from.checked_add(buf.len())?));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn path(&self) -> Option<PathBuf> {
        Some(PathBuf::from(&self.url))
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(self.stamp)
    }
}
