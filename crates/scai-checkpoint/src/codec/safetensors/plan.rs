//! Writing a safetensors file: first every offset, then the tensors, and the header with their
//! digests last.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value as Json};

use super::header::{NO_ROOT, ROOT, encode};
use super::tree::{self, TREE};
use super::{shape_to_format, to_format};
use crate::codec::Origin;
use crate::codec::buffer::{Buffer, MEMORY, agrees, writers};
use crate::codec::digest::{chunks, digests, fold};
use crate::codec::written::{Tensors, Written};
use crate::error::{Error, Result};
use crate::store::WriteAt;
use crate::tensor::{PIECE, Storage, Tensor};
use crate::threads::{held, on_threads};
use crate::value::Value;

/// The digest of each tensor.
pub(super) const DIGESTS: &str = "scai.digests";
/// The prefix of this crate's keys.
pub(super) const OURS: &str = "scai.";
/// What a binding keeps beside the tree.
pub(super) const NOTES: &str = "scai.notes";
/// Tied tensors that are stored once.
const ALIASES: &str = "scai.aliases";
/// The protection of the file that the state was converted from: `none`, or the key is missing.
pub(super) const SOURCE: &str = "scai.source_protection";

/// A file that is ready to be written: every offset is known.
#[derive(Debug)]
pub struct SafetensorsPlan {
    tensors: Vec<Tensor>,
    infos: Vec<(String, TensorInfo)>,
    tree: String,
    ties: Vec<(String, String)>,
    apart: Vec<String>,
    unshared: Vec<String>,
    made_of_parts: Vec<String>,
    /// Further entries of the metadata.
    further: Vec<(String, String)>,
    origin: Origin,
    /// Where the tensors begin, and the length of their bytes.
    data: (u64, u64),
}

impl SafetensorsPlan {
    /// Plans the file for a state tree.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the format cannot hold a part of it, naming each.
    pub fn new(tree: &Value) -> Result<Self> {
        Self::converted(tree, Origin::Known)
    }

    /// Plans the file for a state tree that comes from another file, as [`SafetensorsPlan::new`].
    ///
    /// # Errors
    /// As [`SafetensorsPlan::new`].
    pub fn converted(tree: &Value, origin: Origin) -> Result<Self> {
        let tree::Encoded { json, mut stored, ties, apart, unshared, made_of_parts } =
            tree::encode(tree)?;
        // The order of the format: large elements first, so that all are aligned; then by name.
        let key = |tensor: &Tensor| Reverse(to_format(tensor.dtype()).map(|dtype| dtype.bitsize()));
        stored.sort_by(|(a, left), (b, right)| (key(left), a).cmp(&(key(right), b)));
        let mut infos = Vec::with_capacity(stored.len());
        let mut tensors = Vec::with_capacity(stored.len());
        let mut at = 0;
        for (name, tensor) in stored {
            let Some(dtype) = to_format(tensor.dtype()) else { continue };
            let Some(shape) = shape_to_format(dtype, tensor.shape()) else { continue };
            let end = at + tensor.nbytes() as usize;
            infos.push((name, TensorInfo { dtype, shape, data_offsets: (at, end) }));
            tensors.push(tensor);
            at = end;
        }
        let mut plan = Self {
            tensors,
            infos,
            tree: json,
            ties,
            apart,
            unshared,
            made_of_parts,
            further: Vec::new(),
            origin,
            data: (0, at as u64),
        };
        plan.place()?;
        Ok(plan)
    }

    /// The same plan with notes and the metadata of another file in the header.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the header becomes longer than readers accept.
    pub fn with_metadata<'a>(
        mut self,
        notes: Option<&'a str>,
        metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self> {
        let theirs =
            metadata.into_iter().filter(|(key, _)| !key.starts_with(OURS) && *key != "format");
        let notes = notes.map(|notes| (NOTES, notes)).into_iter();
        self.further
            .extend(notes.chain(theirs).map(|(key, value)| (key.to_owned(), value.to_owned())));
        self.place()?;
        Ok(self)
    }

    /// Finds where the tensors begin.
    fn place(&mut self) -> Result<()> {
        self.data.0 = self.header(&vec![0; self.tensors.len()])?.1.len() as u64;
        Ok(())
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.data.0 + self.data.1
    }

    /// Always false: no file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensors that are the same view of memory as one that is stored: alias and name. A file
    /// of this crate keeps them tied; other programs find one of the two.
    pub fn ties(&self) -> &[(String, String)] {
        &self.ties
    }

    /// The tensors that were views of larger or shared memory, and get memory of their own.
    pub fn apart(&self) -> &[String] {
        &self.apart
    }

    /// Those of them that overlapped another tensor: what is written to one no longer changes the other.
    pub fn unshared(&self) -> &[String] {
        &self.unshared
    }

    /// The tensors that the format cannot represent (sparse, quantised, without data): their parts
    /// are stored, under other names. A file of this crate puts them together again; other programs
    /// do not find them.
    pub fn made_of_parts(&self) -> &[String] {
        &self.made_of_parts
    }

    /// Writes all bytes of the file, each once, on `threads` threads.
    ///
    /// A tensor that is contiguous is written piece by piece; any other is held in memory.
    ///
    /// # Errors
    /// The first error of `file` or of a storage; the others stop soon.
    pub fn write(self, threads: usize, file: &dyn WriteAt) -> Result<Written> {
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Ok(vec![0; self.tensors.len()]));
        let work = || {
            let mut buffer = Buffer::for_file(self.len());
            while held(&outcome).is_ok() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(tensor) = self.tensors.get(index) else { break };
                let (name, info) = &self.infos[index];
                let at = self.data.0 + info.data_offsets.0 as u64;
                let result = write_tensor(tensor, at, &mut buffer, file);
                match (&mut *held(&outcome), result) {
                    (Ok(digests), Ok(digest)) => digests[index] = digest,
                    (outcome @ Ok(_), Err(error)) => *outcome = Err(error.at_tensor(name)),
                    (Err(_), _) => {}
                }
            }
        };
        on_threads(writers(threads, self.tensors.len(), MEMORY, file), work);
        let digests = outcome.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        let (root, bytes) = self.header(&digests)?;
        write_at(file, 0, &bytes)?;
        let mut tensors = Tensors::default();
        for (i, ((name, _), tensor)) in self.infos.iter().zip(&self.tensors).enumerate() {
            let path = tensors.step(None, |text| text.push_str(name));
            tensors.add(Some(path), tensor.dtype(), i);
        }
        Ok(Written::new(root, tensors, digests))
    }

    /// The root and the bytes before the tensors. The length does not depend on the digests.
    fn header(&self, digests: &[u128]) -> Result<(u128, Vec<u8>)> {
        let names = self.infos.iter().map(|(name, _)| name.clone());
        let digests = names.zip(digests.iter().map(|digest| Json::from(format!("{digest:032x}"))));
        let digests: Map<String, Json> = digests.collect();
        let mut metadata = vec![(ROOT, NO_ROOT.to_owned()), ("format", "pt".to_owned())];
        if !self.ties.is_empty() {
            let ties = self.ties.iter().map(|(alias, name)| (alias.clone(), name.as_str().into()));
            metadata.push((ALIASES, Json::Object(ties.collect()).to_string()));
        }
        if self.origin == Origin::Unprotected {
            metadata.push((SOURCE, "none".to_owned()));
        }
        metadata.push((DIGESTS, Json::Object(digests).to_string()));
        metadata.push((TREE, self.tree.clone()));
        metadata.extend(self.further.iter().map(|(key, value)| (key.as_str(), value.clone())));
        encode(&metadata, &self.infos, self.data.1)
    }
}

/// Writes the elements in row-major order; returns their digest.
fn write_tensor(tensor: &Tensor, at: u64, buffer: &mut Buffer, file: &dyn WriteAt) -> Result<u128> {
    let gathered = match tensor.is_contiguous() {
        true => None,
        false => Some(Storage::from_vec(tensor.to_bytes()?)),
    };
    let (storage, start) = match &gathered {
        Some(gathered) => (gathered, 0),
        None => (tensor.storage(), (tensor.offset() * tensor.dtype().size()) as u64),
    };
    let len = tensor.nbytes();
    let alignment = file.alignment();
    let mut found = Vec::with_capacity(chunks(len) as usize);
    for offset in (0..len).step_by(PIECE as usize) {
        let (from, size) = (start + offset, PIECE.min(len - offset) as usize);
        let lies = storage
            .as_slice()
            .and_then(|bytes| bytes.get(from as usize..)?.get(..size))
            .filter(|bytes| agrees(bytes, at + offset, alignment));
        let bytes = match lies {
            Some(bytes) => bytes,
            None => {
                let bytes = buffer.at(at + offset, size, alignment)?;
                storage.read_at(from, bytes)?;
                bytes
            }
        };
        found.extend(digests(bytes));
        write_at(file, at + offset, bytes)?;
    }
    Ok(fold(&found))
}

fn write_at(file: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<()> {
    file.write_at(offset, bytes).map_err(|error| Error::io("write", error))
}
