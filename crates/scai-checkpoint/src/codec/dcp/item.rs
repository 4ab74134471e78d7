//! One item of a shard, as the file that it is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use super::index::{Check, Index};
use super::metadata::Location;
use crate::CHUNK_SIZE;
use crate::codec::Unprotected;
use crate::codec::torch::TorchFile;
use crate::error::{Error, Place, Result};
use crate::read_options::ReadOptions;
use crate::store::ReadAt;
use crate::tensor::{DType, Tensor};
use crate::value::Value;

/// Bytes that are hashed at a time, whole chunks.
const STEP: usize = 4 * CHUNK_SIZE;

/// A file of a directory that holds items.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) file: Arc<dyn ReadAt>,
    /// What binds its items; `None` if PyTorch wrote it.
    pub(super) index: Option<Index>,
}

impl Shard {
    /// Opens an item, whose bytes are those that were written: they match the digest in the index, or there
    /// is a digest for each part of them, which is checked when that is read.
    pub(super) fn open(&self, at: Location, unprotected: Unprotected) -> Result<TorchFile> {
        self.open_checked(at, unprotected, &ReadOptions::default())
            .map_err(|error| self.in_item(at, error))
    }

    fn open_checked(
        &self,
        at: Location,
        unprotected: Unprotected,
        options: &ReadOptions<'_>,
    ) -> Result<TorchFile> {
        let damaged = |what: &str| Error::damaged(Place::default(), what);
        let end = at.offset.checked_add(at.len).filter(|&end| end <= self.file.len());
        if end.is_none() {
            return Err(damaged("an item ends after the end of the file"));
        }
        let mut file = Section { shard: Arc::clone(&self.file), at, digests: None };
        let Some(index) = &self.index else {
            return TorchFile::open(Arc::new(file), unprotected);
        };
        let item = index.find(at.offset, at.len).ok_or_else(|| {
            damaged("the metadata refer to bytes that are not an item of the shard")
        })?;
        match item.check {
            Check::Bytes => {
                let digests = digests(&file, item.digest, options)?;
                file.digests = Some(digests);
                TorchFile::open(Arc::new(file), Unprotected::Accept)
            }
            Check::Root => {
                let opened = TorchFile::open(Arc::new(file), Unprotected::Accept)?;
                if opened.root() == Some(item.digest) {
                    return Ok(opened);
                }
                Err(damaged("the item is not the one that the index of the shard binds"))
            }
        }
    }

    /// Opens the item that holds a region of a tensor.
    pub(super) fn tensor(
        &self,
        at: Location,
        unprotected: Unprotected,
        dtype: DType,
        sizes: &[u64],
    ) -> Result<Tensor> {
        let opened = self.open(at, unprotected)?;
        self.region(&opened, dtype, sizes).map_err(|error| self.in_item(at, error))
    }

    /// The region of a tensor that an item holds.
    fn region(&self, item: &TorchFile, dtype: DType, sizes: &[u64]) -> Result<Tensor> {
        let value = item.tree()?;
        let Value::Tensor(tensor) = value.into_resolved() else {
            return Err(Error::unsupported(
                Place::default(),
                "a region of a tensor that is not stored as a plain tensor",
                "load it with torch, and save plain tensors",
            ));
        };
        let shape = tensor.shape().iter().map(|&len| len as u64);
        if tensor.dtype() != dtype || !shape.eq(sizes.iter().copied()) {
            return Err(Error::damaged(
                Place::default(),
                format!(
                    "the item holds a {} tensor of shape {:?}, but the metadata say {dtype} and \
                     {sizes:?}",
                    tensor.dtype(),
                    tensor.shape()
                ),
            ));
        }
        let attributes = tensor.attributes();
        if attributes.conjugate || attributes.negative {
            return Err(Error::unsupported(
                Place::default(),
                "a region that is a conjugate or negative view",
                "load it with torch, and save `tensor.resolve_conj().resolve_neg()`",
            ));
        }
        Ok(tensor)
    }

    /// Reads every byte of an item, and returns all damage. `expected` is the region that it has to be.
    pub(super) fn verify(
        &self,
        at: Location,
        expected: Option<(DType, &[u64])>,
        options: ReadOptions<'_>,
    ) -> Vec<Error> {
        let opened = match self.open_checked(at, Unprotected::Accept, &options) {
            Ok(opened) => opened,
            Err(error) => return vec![self.in_item(at, error)],
        };
        let by_bytes = self.index.as_ref().and_then(|index| index.find(at.offset, at.len));
        let mut damage = match by_bytes.map(|item| item.check) {
            // All of it was read.
            Some(Check::Bytes) => Vec::new(),
            _ => opened.verify(options),
        };
        if damage.is_empty()
            && let Some((dtype, sizes)) = expected
        {
            damage.extend(self.region(&opened, dtype, sizes).err());
        }
        damage.into_iter().map(|error| self.in_item(at, error)).collect()
    }

    /// An error in an item, as one of the shard.
    pub(super) fn in_item(&self, at: Location, error: Error) -> Error {
        error.shifted(at.offset).without_path().in_part(&self.name)
    }
}

/// Reads all bytes of an item, compares them with the digest of the whole, and returns one for each chunk.
fn digests(file: &Section, expected: u128, options: &ReadOptions<'_>) -> Result<Arc<[u128]>> {
    let mut whole = XxHash3_128::new();
    let mut digests = Vec::new();
    let mut buffer = vec![0; STEP.min(usize::try_from(file.at.len).unwrap_or(STEP))];
    let mut at = 0;
    while at < file.at.len {
        options.check()?;
        let step = (file.at.len - at).min(STEP as u64) as usize;
        let bytes = &mut buffer[..step];
        file.read_at(at, bytes).map_err(|error| Error::io("read", error))?;
        whole.write(bytes);
        digests.extend(bytes.chunks(CHUNK_SIZE).map(XxHash3_128::oneshot));
        options.report(step as u64);
        at += step as u64;
    }
    if whole.finish_128() != expected {
        let place = Place::default().bytes(0..file.at.len);
        return Err(Error::damaged(place, "checksum mismatch"));
    }
    Ok(digests.into())
}

/// The bytes of an item, as a file.
#[derive(Debug)]
struct Section {
    shard: Arc<dyn ReadAt>,
    at: Location,
    /// The digests of its chunks, if they are known to be right.
    digests: Option<Arc<[u128]>>,
}

impl Section {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.shard.read_at(self.at.offset + offset, buf)
    }

    /// Reads whole chunks, and copies from each once it matches its digest.
    fn read_checked(&self, digests: &[u128], offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (mut at, mut rest) = (offset, buf);
        let mut chunk = vec![0; CHUNK_SIZE.min(usize::try_from(self.at.len).unwrap_or(CHUNK_SIZE))];
        while !rest.is_empty() {
            let number = (at / CHUNK_SIZE as u64) as usize;
            let start = at - at % CHUNK_SIZE as u64;
            let chunk = &mut chunk[..(self.at.len - start).min(CHUNK_SIZE as u64) as usize];
            self.read(start, chunk)?;
            if digests.get(number) != Some(&XxHash3_128::oneshot(chunk)) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum mismatch"));
            }
            let wanted = &chunk[(at - start) as usize..];
            let (part, after) = rest.split_at_mut(wanted.len().min(rest.len()));
            part.copy_from_slice(&wanted[..part.len()]);
            at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

impl ReadAt for Section {
    fn len(&self) -> u64 {
        self.at.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.at.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.digests {
            Some(digests) => self.read_checked(digests, offset, buf),
            None => self.read(offset, buf),
        }
    }

    fn forget_cached(&self) {
        self.shard.forget_cached();
    }

    fn path(&self) -> Option<PathBuf> {
        self.shard.path()
    }
}
