//! The memory behind tensors: a run of bytes that several tensors may share.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytemuck::{NoUninit, cast_slice};

use crate::error::{Error, Result};
use crate::memory::{with_scratch, zeroed};
use crate::tensor::PIECE;

/// Where the bytes of a [`Storage`] come from.
///
/// Memory, a file, or a function that makes them: the writer asks for ranges and treats all alike.
pub trait Source: Send + Sync {
    /// The length in bytes, known before any byte is.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on, checked against the digests, if there are any.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the bytes are not those that were saved, [`Error::Io`] if they cannot
    /// be read. The contents of `buf` are then unspecified.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Reads the bytes in `range` for no other use than to check them.
    ///
    /// # Errors
    /// As [`Source::read_at`].
    fn check(&self, range: Range<u64>) -> Result<()> {
        if self.as_slice().is_some() { Ok(()) } else { read_away(self, range) }
    }

    /// All bytes, if they are in memory and do not change.
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }

    /// Begins a checked read of all bytes, which several threads may share. If the bytes have one
    /// checksum for the whole, this reads them once and checks it at the end, which `read_at` cannot.
    fn pass(&self) -> Box<dyn Pass + '_> {
        Box::new(PlainPass(self))
    }

    /// The digests saved with the bytes, if there are any.
    fn digests(&self) -> Option<&[u128]> {
        None
    }

    /// One digest over all of these, if it is known without reading the bytes.
    fn digest(&self) -> Option<u128> {
        None
    }

    /// The record of the file that holds the bytes, if they are on disk.
    fn record(&self) -> Option<&str> {
        None
    }

    /// Where in the file the bytes are, if they are stored there as they are in memory.
    fn file_range(&self) -> Option<Range<u64>> {
        None
    }

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads bytes into memory that is used again.
pub(crate) fn read_away(source: &(impl Source + ?Sized), range: Range<u64>) -> Result<()> {
    for at in range.clone().step_by(PIECE as usize) {
        let len = (range.end - at).min(PIECE) as usize;
        with_scratch(len, |scratch| source.read_at(at, scratch))?;
    }
    Ok(())
}

/// A checked read of all bytes of a [`Source`], in pieces that several threads take in any order.
pub trait Pass: Sync {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// Each byte is read once. A piece begins at a multiple of [`crate::CHUNK_SIZE`] and ends at
    /// one or at the end of the source.
    ///
    /// # Errors
    /// As [`Source::read_at`]. What was read without an error may still be found damaged by
    /// [`Pass::finish`].
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Checks what can be checked only once every byte was read. Nothing that was read may be used
    /// before this has returned without an error.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the bytes are not those that were saved.
    fn finish(&self) -> Result<()>;
}

/// A checked read of a source that checks each piece by itself.
pub(crate) struct PlainPass<'a, S: ?Sized>(pub(crate) &'a S);

impl<S: Source + ?Sized> Pass for PlainPass<'_, S> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// A run of bytes that tensors are views of. Cloning shares it.
///
/// Two tensors with clones of one storage stay tied through a save and a load.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    source: Arc<dyn Source>,
    /// The device, if it is not the CPU.
    location: Option<Arc<str>>,
}

/// Bytes that something else owns: a `Vec`, a memory map, a framework's tensor.
struct Borrowed<T>(T);

impl<T: AsRef<[u8]> + Send + Sync> Source for Borrowed<T> {
    fn len(&self) -> u64 {
        self.0.as_ref().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        copy_from(self.0.as_ref(), offset, buf)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(self.0.as_ref())
    }
}

/// Typed elements, seen as bytes.
struct Elements<T>(Vec<T>);

impl<T: NoUninit> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        cast_slice(&self.0)
    }
}

/// Bytes that a function makes when they are first asked for.
struct Late<F> {
    len: u64,
    make: F,
    made: OnceLock<Vec<u8>>,
}

impl<F: Fn() -> Result<Vec<u8>> + Send + Sync> Source for Late<F> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let made = match self.made.get() {
            Some(made) => made,
            None => {
                let made = (self.make)()?;
                if made.len() as u64 != self.len {
                    return Err(Error::invalid(format!(
                        "a storage announced as {} bytes was produced with {}",
                        self.len,
                        made.len()
                    )));
                }
                self.made.get_or_init(|| made)
            }
        };
        copy_from(made, offset, buf)
    }
}

fn copy_from(bytes: &[u8], offset: u64, buf: &mut [u8]) -> Result<()> {
    let part = usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(buf.len())?))
        .ok_or_else(|| out_of_range(offset, buf.len(), bytes.len() as u64))?;
    buf.copy_from_slice(part);
    Ok(())
}

fn out_of_range(offset: u64, len: usize, of: u64) -> Error {
    Error::invalid(format!("{len} bytes at {offset} are not inside a storage of {of} bytes"))
}

/// A part of a storage.
struct Section {
    of: Storage,
    range: Range<u64>,
}

impl Source for Section {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len()) {
            return Err(Error::invalid("a read beyond the end of a part of a storage"));
        }
        self.of.read_at(self.range.start + offset, buf)
    }

    fn check(&self, range: Range<u64>) -> Result<()> {
        self.of.check(self.range.start + range.start..self.range.start + range.end)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.of.as_slice()?.get(self.range.start as usize..self.range.end as usize)
    }
}

impl Storage {
    /// A storage over any source.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self(Arc::new(Inner { source, location: None }))
    }

    /// A storage over bytes owned by `owner`, which is kept and not copied.
    pub fn from_owner(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::new(Arc::new(Borrowed(owner)))
    }

    /// A storage over the elements of `values`, which are not copied.
    pub fn from_vec<T: NoUninit + Send + Sync>(values: Vec<T>) -> Self {
        Self::from_owner(Elements(values))
    }

    /// A storage of `len` bytes that `make` produces when they are first needed.
    pub fn produced(len: u64, make: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::new(Arc::new(Late { len, make, made: OnceLock::new() }))
    }

    /// The bytes in `range`, as a storage of its own. Nothing is read or copied.
    pub fn section(&self, range: Range<u64>) -> Self {
        let whole = range == (0..self.len());
        let section = || Self::new(Arc::new(Section { of: self.clone(), range }));
        if whole { self.clone() } else { section().with_location(self.location()) }
    }

    /// A new storage of the same bytes, marked as having been on the device `location` (`cpu`, `cuda:0`).
    #[must_use]
    pub fn with_location(&self, location: &str) -> Self {
        let source = Arc::clone(&self.0.source);
        Self(Arc::new(Inner { source, location: Some(location.into()) }))
    }

    /// The device the bytes were on when they were saved: `cpu`, `cuda:0`, …
    pub fn location(&self) -> &str {
        self.0.location.as_deref().unwrap_or("cpu")
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.0.source.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::Damaged`] if bytes on disk are not those that were saved.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(out_of_range(offset, buf.len(), self.len()));
        }
        self.0.source.read_at(offset, buf)
    }

    /// Reads the bytes in `range` for no other use than to check them: less work than [`Storage::read_at`].
    ///
    /// # Errors
    /// As [`Storage::read_at`].
    pub fn check(&self, range: Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            return Err(out_of_range(range.start, 0, self.len()));
        }
        self.0.source.check(range)
    }

    /// A copy of a range of the bytes.
    ///
    /// # Errors
    /// As [`Storage::read_at`].
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        if range.start > range.end || range.end > self.len() {
            return Err(out_of_range(range.start, 0, self.len()));
        }
        let mut buf = zeroed(range.end - range.start, "read a tensor")?;
        self.read_at(range.start, &mut buf)?;
        Ok(buf.into_vec())
    }

    /// Begins a checked read of all bytes, which several threads may share.
    pub(crate) fn pass(&self) -> Box<dyn Pass + '_> {
        self.0.source.pass()
    }

    /// All bytes, if they are in memory.
    pub fn as_slice(&self) -> Option<&[u8]> {
        self.0.source.as_slice()
    }

    /// The digests saved with the bytes: one for each chunk of [`crate::CHUNK_SIZE`] bytes.
    ///
    /// Equal digests mean equal bytes, so that two files can be compared without reading them.
    pub fn digests(&self) -> Option<&[u128]> {
        self.0.source.digests()
    }

    /// One digest over all of these, if it is known without reading the bytes.
    pub fn digest(&self) -> Option<u128> {
        self.0.source.digest()
    }

    /// The record of the file that holds the bytes, if they are on disk: `data/17`.
    pub fn record(&self) -> Option<&str> {
        self.0.source.record()
    }

    /// Where in the file the bytes are, if they are on disk.
    pub fn file_range(&self) -> Option<Range<u64>> {
        self.0.source.file_range()
    }

    /// The same storage with its bytes in memory.
    ///
    /// # Errors
    /// As [`Storage::read_at`].
    pub fn resident(&self) -> Result<Self> {
        if self.as_slice().is_some() {
            return Ok(self.clone());
        }
        Ok(self.held_in(self.read(0..self.len())?))
    }

    /// The same storage with its bytes in `memory`.
    pub(crate) fn held_in(&self, memory: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let location = self.0.location.clone();
        Self(Arc::new(Inner { source: Arc::new(Borrowed(memory)), location }))
    }

    /// Whether both are the same memory, not merely equal bytes.
    pub fn same_as(&self, other: &Self) -> bool {
        self.id() == other.id()
    }

    /// A number that is the same for clones of this storage and no other that exists meanwhile.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({} bytes on {})", self.len(), self.location())
    }
}
