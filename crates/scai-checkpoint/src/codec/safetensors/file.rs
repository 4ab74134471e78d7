//! Opening a safetensors file.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};

use safetensors::tensor::TensorInfo;

use super::header::{self, Header};
use super::plan::{DIGESTS, NOTES, OURS, SOURCE};
use super::tree::{Decoder, TREE};
use super::{from_format, header::ROOT, shape_from_format};
use crate::codec::pass::verify_all;
use crate::codec::record::{Check, RecordSource};
use crate::codec::{Origin, Protection, Unprotected, in_file};
use crate::error::{Error, Place, Result};
use crate::read_options::ReadOptions;
use crate::store::ReadAt;
use crate::tensor::{DType, Storage, Tensor};
use crate::value::{Dict, Value};

/// An open safetensors file. Its header has been checked; its tensors are checked when they are
/// read.
#[derive(Debug)]
pub struct SafetensorsFile {
    tensors: Vec<Stored>,
    metadata: BTreeMap<String, String>,
    /// Further names of tensors in a file of another program: alias and name.
    aliases: Vec<(String, String)>,
    file: Arc<dyn ReadAt>,
    protection: Protection,
    unprotected: Unprotected,
}

/// A tensor of the file.
#[derive(Debug)]
pub(super) struct Stored {
    info: TensorInfo,
    source: Arc<RecordSource>,
}

impl Stored {
    pub(super) fn name(&self) -> &str {
        &self.source.name
    }

    pub(super) fn shape(&self) -> Result<Vec<usize>> {
        shape_from_format(self.info.dtype, &self.info.shape).ok_or_else(|| {
            Error::unsupported(
                Place { tensor: Some(self.name().to_owned()), ..Place::default() },
                format!("the last dimension has an odd number of {} elements", self.info.dtype),
                "PyTorch packs two of them into a byte along the last dimension",
            )
        })
    }

    pub(super) fn dtype(&self) -> Result<DType> {
        from_format(self.info.dtype).ok_or_else(|| {
            Error::unsupported(
                Place { tensor: Some(self.name().to_owned()), ..Place::default() },
                format!("PyTorch has no element type {}", self.info.dtype),
                "convert the tensor with the program that wrote it",
            )
        })
    }

    pub(super) fn storage(&self) -> Storage {
        Storage::new(Arc::clone(&self.source) as Arc<dyn crate::tensor::Source>)
    }
}

impl SafetensorsFile {
    /// Whether a file begins like a safetensors file.
    pub fn recognise(file: &dyn ReadAt) -> bool {
        header::recognise(file)
    }

    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not valid, or not what this crate wrote.
    pub fn open(file: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        in_file(&*Arc::clone(&file), Self::open_named(file, unprotected))
    }

    fn open_named(file: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        let mut header = Header::read(&*file)?;
        let parts = [ROOT, DIGESTS, TREE].map(|key| header.metadata.contains_key(key));
        let digests = match parts {
            [false, false, false] => None,
            [true, true, true] => {
                header.check_root(file.len())?;
                Some(digests(&header)?)
            }
            _ => {
                return Err(Error::damaged(
                    Place::default(),
                    "part of the metadata that scai wrote into the header is missing",
                ));
            }
        };
        let aliases = if digests.is_none() { take_aliases(&mut header) } else { Vec::new() };
        let tensors = header.tensors.into_iter().enumerate().map(|(i, (name, info))| {
            let (start, end) = info.data_offsets;
            let check = match &digests {
                Some(digests) => Check::Folded(digests[i], OnceLock::new()),
                None => Check::Nothing,
            };
            let source = RecordSource {
                file: Arc::clone(&file),
                name: name.into(),
                data: header.data + start as u64,
                size: (end - start) as u64,
                crc: None,
                check,
            };
            Stored { info, source: Arc::new(source) }
        });
        Ok(Self {
            tensors: tensors.collect(),
            metadata: header.metadata,
            aliases,
            file,
            protection: if digests.is_some() { Protection::Digests } else { Protection::None },
            unprotected,
        })
    }

    /// What protects the file against damage.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Where its bytes come from, if this crate wrote it.
    pub(crate) fn origin(&self) -> Origin {
        match self.metadata.get(SOURCE).map(String::as_str) {
            _ if self.protection == Protection::None => Origin::Unprotected,
            Some("none") => Origin::Unprotected,
            _ => Origin::Known,
        }
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// Whether the file is empty, which no valid file is.
    pub fn is_empty(&self) -> bool {
        self.file.is_empty()
    }

    /// What a program put into the header besides the tensors, without what this crate understands.
    pub fn metadata(&self) -> BTreeMap<&str, &str> {
        let entries = self.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let is_ours = self.protection == Protection::Digests;
        entries.filter(|(key, _)| !is_ours || !key.starts_with(OURS) && *key != "format").collect()
    }

    /// The notes that were saved beside the tree.
    pub fn notes(&self) -> Option<&str> {
        let is_ours = self.protection == Protection::Digests;
        self.metadata.get(NOTES).filter(|_| is_ours).map(String::as_str)
    }

    /// The state tree: as this crate wrote it, otherwise a dict of all tensors, with the ties that
    /// `save_model` of the safetensors package recorded. The tensors remain on disk; they are read
    /// and checked when they are used.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the tree is not valid; [`Error::Unsupported`] for an element type that
    /// PyTorch lacks; [`Error::Unprotected`] for a file of another program, unless that was accepted.
    pub fn tree(&self) -> Result<Value> {
        in_file(&*self.file, self.read_tree())
    }

    fn read_tree(&self) -> Result<Value> {
        if let Some(tree) = self.metadata.get(TREE) {
            return Decoder::new(&self.tensors).decode(tree);
        }
        if self.unprotected == Unprotected::Refuse {
            return Err(Error::Unprotected { place: Box::default() });
        }
        let tensors = self.tensors.iter().map(|stored| {
            let tensor = Tensor::contiguous(stored.dtype()?, stored.shape()?, stored.storage());
            Ok((stored.name(), tensor.map_err(|error| damaged_tensor(stored.name(), &error))?))
        });
        let mut dict = tensors.collect::<Result<Dict>>()?;
        for (alias, name) in &self.aliases {
            if let Some(tensor) = dict.get(name).cloned() {
                dict.insert(alias.as_str(), tensor);
            }
        }
        Ok(Value::Dict(dict))
    }

    /// Reads and checks every byte, and returns all damage.
    pub fn verify<'o>(&self, options: impl Into<ReadOptions<'o>>) -> Vec<Error> {
        let sources: Vec<&RecordSource> =
            self.tensors.iter().map(|stored| &*stored.source).collect();
        let damage = verify_all(&sources, &options.into());
        let named = damage.into_iter().map(|error| {
            let name = error.place().and_then(|place| place.record.clone());
            name.into_iter().fold(error, |error, name| error.at_tensor(name))
        });
        named.collect()
    }
}

/// An impossible tensor, such as one with too many dimensions.
pub(super) fn damaged_tensor(name: &str, error: &Error) -> Error {
    let place = Place { tensor: Some(name.to_owned()), ..Place::default() };
    Error::damaged(place, error.to_string())
}

/// Takes the tied tensors out of the metadata, where `save_model` puts them: a parameter of one
/// module that is also one of another, mostly under the same name there. A different key whose
/// value is the name of a tensor is ordinary metadata.
fn take_aliases(header: &mut Header) -> Vec<(String, String)> {
    let names: HashSet<&str> = header.tensors.iter().map(|(name, _)| name.as_str()).collect();
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let is_alias = |key: &str, value: &str| {
        !names.contains(key) && names.contains(value) && last(key) == last(value)
    };
    let (aliases, rest) = std::mem::take(&mut header.metadata)
        .into_iter()
        .partition(|(key, value)| is_alias(key, value));
    header.metadata = rest;
    BTreeMap::into_iter(aliases).collect()
}

/// The digest of each tensor, in the order of the file.
fn digests(header: &Header) -> Result<Vec<u128>> {
    let bad = || Error::damaged(Place::record(DIGESTS), "the digests are not valid");
    let text = header.metadata.get(DIGESTS).ok_or_else(bad)?;
    // Not `&str`: a name with an escape in it cannot be read as one.
    let digests: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| bad())?;
    let of = |(name, _): &(String, TensorInfo)| u128::from_str_radix(digests.get(name)?, 16).ok();
    header.tensors.iter().map(|tensor| of(tensor).ok_or_else(bad)).collect()
}
