//! Reading an object: blocks are fetched several at a time, and kept in a file without a name.

#![expect(
    clippy::disallowed_types,
    reason = "a file without a name, which is in no directory that anybody looks at"
)]

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta};
use rustix::fs::{Mode, OFlags};

use super::failed::as_io;
use super::{Remote, runtime, stamp_of};
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
    /// What it was when it was opened: an object of somebody else may be replaced.
    tag: Option<String>,
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
    /// The process that fetches: a fork does not have the threads of its parent.
    process: u32,
    /// Blocks cannot be kept any more.
    is_full: bool,
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
        meta: &ObjectMeta,
    ) -> Self {
        let (stamp, tag) = (stamp_of(meta), meta.e_tag.clone());
        let kept = if len > 0 { nameless().ok() } else { None };
        let (blocks, arrived) = Default::default();
        Self {
            inner: Arc::new(Inner { remote, path, url, len, stamp, tag, kept, blocks, arrived }),
        }
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
        let options = GetOptions {
            range: Some(range.into()),
            if_match: self.tag.clone(),
            ..GetOptions::default()
        };
        let found =
            self.remote.get_opts(&self.path, options).await.map_err(|error| match error {
                object_store::Error::Precondition { .. } => io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the object was replaced while it was read",
                ),
                error => as_io(error),
            })?;
        let bytes = found.bytes().await.map_err(as_io)?;
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
        let under_way = UnderWay { inner: Arc::clone(self), number };
        runtime.spawn(async move {
            let under_way = under_way;
            let range = inner.block(number);
            let begin = range.start;
            let fetched = inner.fetch(range).await.ok();
            // A page cache takes it; the device is not waited for.
            let (is_kept, is_lost) = match (&inner.kept, fetched) {
                (Some(kept), Some(bytes)) => {
                    let is_kept = kept.write_all_at(&bytes, begin).is_ok();
                    (is_kept, !is_kept)
                }
                _ => (false, false),
            };
            let mut blocks = held(&inner.blocks);
            blocks.is_full |= is_lost;
            if is_kept && blocks.round == round {
                blocks.there.insert(number);
            }
            drop(blocks);
            drop(under_way);
        });
    }

    /// Reads a part of a block.
    fn read(self: &Arc<Self>, number: u64, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(kept) = &self.kept else { return self.read_past(offset, buf) };
        let mut blocks = held(&self.blocks);
        if blocks.process != std::process::id() {
            blocks.process = std::process::id();
            blocks.fetching.clear();
        }
        if !blocks.there.contains(&number) && !blocks.is_full {
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

/// A block that is being fetched; not any more when this is dropped.
struct UnderWay {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        held(&self.inner.blocks).fetching.remove(&self.number);
        self.inner.arrived.notify_all();
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
        blocks.is_full = false;
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
