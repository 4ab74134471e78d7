//! Opening a `.pt` file.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;

use super::legacy;
use super::manifest::{self, DIGESTS, MANIFEST, MAX_NOTES, Manifest, NOTES, ROOT_LEN, ROOT_PREFIX};
use super::pickle::build::{StorageRef, build_with};
use super::pickle::machine::{Stop, run};
use super::zip::inflate::check_sizes;
use super::zip::members::source;
use super::zip::read::directory;
use super::zip::{LOCAL, Record};
use crate::codec::digest::chunks;
use crate::codec::pass::{name_tensors, verify_all};
use crate::codec::record::{Check, RecordSource};
use crate::codec::secret::Secret;
use crate::codec::{Foreign, Origin, Protection, Unprotected, in_file};
use crate::error::{Error, Place, Result};
use crate::memory::zeroed;
use crate::read_options::ReadOptions;
use crate::store::ReadAt;
use crate::tensor::{Pass, Source, Storage};
use crate::value::{Dict, Value};

/// Records up to this size are checked when the tree is read, though it does not need them.
const SMALL: u64 = 64 << 10;

/// The record with the state tree.
const PICKLE: &str = "data.pkl";
/// The tensors that the code of a TorchScript archive names, which every such archive has.
const CONSTANTS: &str = "constants.pkl";

/// An open `.pt` file. Its structure has been checked; its tensors are checked when they are read.
#[derive(Debug)]
pub struct TorchFile {
    file: Arc<dyn ReadAt>,
    records: HashMap<Arc<str>, Arc<RecordSource>, Secret>,
    /// The names in the order of the file.
    order: Vec<Arc<str>>,
    manifest: Option<Manifest>,
    protection: Protection,
    /// What binds the digests, if this crate wrote the file.
    root: Option<u128>,
    unprotected: Unprotected,
    /// What plain values of the tree stand for, in another program's file; known once the tree was read.
    noted: OnceLock<Option<String>>,
}

impl TorchFile {
    /// Whether a file begins or ends like one of PyTorch's.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(in crate::codec) fn recognise(file: &dyn ReadAt) -> Result<bool> {
        Ok(is_zip(file) || ends_with_root(file) || legacy::is_legacy(file)?)
    }

    /// Whether it is a zip file that this crate did not write.
    pub(in crate::codec) fn is_foreign_zip(file: &dyn ReadAt) -> bool {
        is_zip(file) && !ends_with_root(file)
    }

    /// Opens a file: checks its structure, its directory and its manifest.
    ///
    /// # Errors
    /// [`Error::Damaged`] if that is not sound; [`Error::NotACheckpoint`] if it is not a `.pt`
    /// file; [`Error::Unsupported`] for compression, encryption and a newer format;
    /// [`Error::Unprotected`] for a file without checksums, unless `unprotected` accepts it.
    pub fn open(file: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        in_file(&*Arc::clone(&file), Self::open_either(file, unprotected))
    }

    fn open_either(file: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        if !legacy::is_legacy(&*file)? {
            return Self::open_zip(file, unprotected);
        }
        Ok(Self {
            records: HashMap::default(),
            order: Vec::new(),
            manifest: None,
            protection: Protection::None,
            root: None,
            unprotected,
            noted: OnceLock::new(),
            file,
        })
    }

    fn open_zip(file: Arc<dyn ReadAt>, unprotected: Unprotected) -> Result<Self> {
        let directory = directory(&*file).map_err(|error| match error {
            // Records of our own files are stored as they are: anything else is damage.
            Error::Unsupported { place, what, .. } | Error::NotACheckpoint { place, what, .. }
                if ends_with_root(&*file) =>
            {
                Error::Damaged { place, detail: what }
            }
            error => error,
        })?;
        let records = directory.records;
        check_sizes(file.len(), &records)?;
        let find = |name: &str| records.iter().position(|record| record.name == name);
        if find(PICKLE).is_none() && find(MANIFEST).is_none() {
            return Err(Error::not_a_checkpoint(
                Place::default(),
                format!("a zip archive without `{PICKLE}`"),
                "unpack it with `unzip FILE`, and open the file with the tensors",
            ));
        }
        let is_ours = directory.comment.starts_with(ROOT_PREFIX);
        let mut bound = None;
        let (table, protection) = match (find(MANIFEST), find(DIGESTS), is_ours) {
            (Some(_), Some(digests), true) => {
                // Records of our own files are stored as they are: anything else is damage.
                if let Some(record) = records.iter().find(|record| record.deflated.is_some()) {
                    return Err(Error::damaged(
                        Place::record(record.name.as_str()),
                        "the record is marked as compressed",
                    ));
                }
                let raw = raw(&file, &records[digests])?;
                let tail = &directory.tail[..directory.tail.len().saturating_sub(ROOT_LEN)];
                let root = manifest::root(file.len(), directory.headers, &raw, tail);
                if directory.comment != manifest::comment(root) {
                    return Err(Error::damaged(
                        Place::default(),
                        "the structure of the file (headers, directory or digest table) is not \
                         what was saved",
                    ));
                }
                bound = Some(root);
                if digests + 1 != records.len() {
                    return Err(Error::damaged(
                        Place::record(DIGESTS),
                        "it is not the last record",
                    ));
                }
                (manifest::decode_table(&raw, &records[..digests])?, Protection::Digests)
            }
            (None, None, false) => {
                let without = records.iter().all(|record| record.crc == 0 || record.size == 0);
                (Vec::new(), if without { Protection::None } else { Protection::Crc32 })
            }
            _ => {
                return Err(Error::damaged(
                    Place::default(),
                    "part of the manifest is missing: manifest, digest table and root must all be \
                     present",
                ));
            }
        };
        let table: Arc<[u128]> = table.into();
        let mut at = 0;
        let mut order = Vec::with_capacity(records.len());
        let mut sources = HashMap::with_capacity_and_hasher(records.len(), Secret::default());
        for record in records {
            let check = match protection {
                Protection::Digests if record.name != DIGESTS => {
                    let start = at;
                    at += chunks(record.size) as usize;
                    Check::Chunks(Arc::clone(&table), start..at)
                }
                Protection::None => Check::Nothing,
                _ => Check::Crc(OnceLock::new()),
            };
            let crc = (protection != Protection::None).then_some(record.crc);
            let source = source(&file, record, crc, check);
            order.push(Arc::clone(&source.name));
            sources.insert(Arc::clone(&source.name), Arc::new(source));
        }
        let mut opened = Self {
            file,
            records: sources,
            order,
            manifest: None,
            protection,
            root: bound,
            unprotected,
            noted: OnceLock::new(),
        };
        if protection == Protection::Digests {
            let manifest = Manifest::decode(&opened.content(MANIFEST, manifest::MAX_MANIFEST)?)?;
            if manifest.file_size() != Some(opened.file.len()) {
                return Err(Error::damaged(
                    Place::record(MANIFEST),
                    "the file is not as long as it was when saved",
                ));
            }
            opened.manifest = Some(manifest);
        }
        Ok(opened)
    }

    /// The root, which binds every byte of a file that this crate wrote.
    pub(crate) fn root(&self) -> Option<u128> {
        self.root
    }

    /// Whether it is of the format before PyTorch 1.6.
    pub fn is_legacy(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether it is a TorchScript archive: code and its parameters.
    pub fn is_script(&self) -> bool {
        self.records.contains_key(CONSTANTS)
    }

    /// Where its bytes come from, as far as it says so.
    pub(crate) fn origin(&self) -> Origin {
        match &self.manifest {
            _ if self.protection == Protection::None => Origin::Unprotected,
            manifest => manifest.as_ref().map_or(Origin::Known, Manifest::origin),
        }
    }

    /// What protects the file against damage.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// What the file says about itself, if this crate wrote it.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The open file itself, to map it into memory.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }

    /// The notes that were saved beside the tree, or, in a file of another program, those on
    /// NumPy's values in it; `None` if there are none.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they are not what was saved, not UTF-8, or longer than 64 MiB; as
    /// [`TorchFile::tree`] if that was not read before.
    pub fn notes(&self) -> Result<Option<String>> {
        if self.protection != Protection::Digests {
            if self.noted.get().is_none() {
                self.tree_with(Foreign::StandIn)?;
            }
            return Ok(self.noted.get().cloned().flatten());
        }
        if !self.records.contains_key(NOTES) {
            return Ok(None);
        }
        let read = || {
            let notes = String::from_utf8(self.content(NOTES, MAX_NOTES)?);
            notes.map(Some).map_err(|_| Error::damaged(Place::record(NOTES), "it is not UTF-8"))
        };
        in_file(&*self.file, read())
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// All bytes of the file as they are.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = zeroed(self.len(), "read a file")?.into_vec();
        self.file.read_at(0, &mut bytes).map_err(|error| Error::io("read", error))?;
        Ok(bytes)
    }

    /// Whether the file is empty, which no valid file is.
    pub fn is_empty(&self) -> bool {
        self.file.is_empty()
    }

    /// The state tree. Its tensors remain on disk; they are read and checked when they are used.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the pickle is damaged, or refers to storages that are not there;
    /// [`Error::NeedsCode`] if it holds objects that only code could make; [`Error::Unsupported`]
    /// if it holds something else that this crate does not read; [`Error::NotACheckpoint`] for a
    /// zip file of other things, and for a TorchScript archive; [`Error::Unprotected`] for a file
    /// without checksums, unless that was accepted.
    pub fn tree(&self) -> Result<Value> {
        self.tree_with(Foreign::Refuse)
    }

    /// As [`TorchFile::tree`], where `foreign` says what happens to objects that only code could make.
    ///
    /// For a TorchScript archive, [`Foreign::StandIn`] returns the attributes of the model by their
    /// names, and what its code calls `CONSTANTS` under that name; the code is left out.
    ///
    /// # Errors
    /// As [`TorchFile::tree`].
    pub fn tree_with(&self, foreign: Foreign) -> Result<Value> {
        let (tree, notes) = in_file(&*self.file, self.read_tree(foreign))?;
        // The same whenever the tree is read.
        let _ = self.noted.set(notes);
        Ok(tree)
    }

    fn read_tree(&self, foreign: Foreign) -> Result<(Value, Option<String>)> {
        if self.protection == Protection::None && self.unprotected == Unprotected::Refuse {
            return Err(Error::Unprotected { place: Box::default() });
        }
        if self.records.is_empty() {
            return legacy::tree(&self.file, foreign);
        }
        if self.is_script() && foreign == Foreign::Refuse {
            return Err(Error::not_a_checkpoint(
                Place::default(),
                "a TorchScript model, which is code and its parameters",
                "load it with `torch.jit.load`, and save its `state_dict()` with scai; `scai show` \
                 and `scai convert --lossy` read its tensors without running its code",
            ));
        }
        if let Some(order) = self.records.get("byteorder") {
            let order = self.content("byteorder", order.len().min(16))?;
            if order != b"little" {
                return Err(Error::unsupported(
                    Place::record("byteorder"),
                    "the file was written on a big-endian machine",
                    "load and save it with torch on a little-endian one",
                ));
            }
        }
        // Nothing reads the other small records, such as torch's `version`, but damage there is
        // damage too.
        let is_tensor = |name: &str| {
            name.starts_with("data/") || self.is_script() && name.starts_with("constants/")
        };
        for name in self.order.iter().filter(|name| !is_tensor(name)) {
            if self.records.get(&**name).is_some_and(|record| record.len() <= SMALL) {
                self.content(name, SMALL)?;
            }
        }
        let mut storages = FxHashMap::default();
        let (tree, notes) = self.read_pickle(PICKLE, "data", foreign, &mut storages)?;
        if !self.is_script() {
            return Ok((tree, notes));
        }
        let (constants, _) = self.read_pickle(CONSTANTS, "constants", foreign, &mut storages)?;
        Ok((with_constants(tree, constants), notes))
    }

    /// The tree of a pickle record, whose storages are in a folder.
    fn read_pickle(
        &self,
        record: &str,
        folder: &str,
        foreign: Foreign,
        storages: &mut FxHashMap<usize, Storage>,
    ) -> Result<(Value, Option<String>)> {
        let pickle = self.content(record, self.file.len())?;
        self.run_pickle(pickle, folder, foreign, storages).map_err(|error| match error {
            // Its checksum matched, so these are the bytes that were written.
            Error::Damaged { place, detail }
                if self.protection != Protection::None
                    && place.record.as_deref() == Some(PICKLE) =>
            {
                let hint = "its checksum matches, so it was written like this: the program that \
                            wrote it has a bug, or is newer than this one";
                Error::unsupported(Place::record(record), detail, hint)
            }
            error => error,
        })
    }

    fn run_pickle(
        &self,
        pickle: Vec<u8>,
        folder: &str,
        foreign: Foreign,
        storages: &mut FxHashMap<usize, Storage>,
    ) -> Result<(Value, Option<String>)> {
        let program = run(&pickle).map_err(|stop| match stop {
            Stop::Bad(error) => error,
            Stop::Short => Error::damaged(Place::record(PICKLE), "the pickle is truncated"),
        })?;
        if program.consumed != pickle.len() {
            return Err(Error::damaged(Place::record(PICKLE), "bytes follow the pickle"));
        }
        drop(pickle);
        build_with(program, foreign, &mut |reference| self.storage(folder, reference, storages))
    }

    /// The storage of a record; `storages` caches them by their records.
    fn storage(
        &self,
        folder: &str,
        reference: &StorageRef<'_>,
        storages: &mut FxHashMap<usize, Storage>,
    ) -> Result<Storage> {
        let name = format!("{folder}/{}", reference.key);
        let Some(source) = self.records.get(name.as_str()) else {
            return Err(Error::damaged(Place::record(name), "the record is missing"));
        };
        let unit = reference.dtype.map_or(1, |dtype| dtype.size() as u64);
        // A storage viewed as a wider type may have some bytes over, fewer than an element; torch
        // does not count them.
        let over = reference.nbytes().and_then(|len| source.len().checked_sub(len));
        if over.is_none_or(|over| over >= unit) {
            return Err(Error::damaged(
                Place::record(name),
                format!(
                    "the pickle refers to {} elements of {unit} bytes, but the record has {} bytes",
                    reference.numel,
                    source.len()
                ),
            ));
        }
        let len = source.len() - over.unwrap_or(0);
        let storage = storages.entry(Arc::as_ptr(source).addr()).or_insert_with(|| {
            let source = Arc::clone(source) as Arc<dyn Source>;
            let storage = Storage::new(match over {
                None | Some(0) => source,
                Some(_) => Arc::new(Cut { len, source }),
            });
            if reference.location == "cpu" {
                storage
            } else {
                storage.with_location(reference.location)
            }
        });
        if storage.len() != len || storage.location() != reference.location {
            return Err(Error::damaged(
                Place::record(name),
                "two references to it disagree about its length or its device",
            ));
        }
        Ok(storage.clone())
    }

    /// Reads and checks every byte of every record, and returns all damage, with the tensors
    /// concerned if the tree can be read.
    ///
    /// A thread holds 256 KiB, however long the records are.
    pub fn verify<'o>(&self, options: impl Into<ReadOptions<'o>>) -> Vec<Error> {
        let sources: Vec<&RecordSource> =
            self.order.iter().filter_map(|name| Some(&**self.records.get(&**name)?)).collect();
        let damage = verify_all(&sources, &options.into());
        if damage.is_empty() {
            return damage;
        }
        match self.tree_with(Foreign::StandIn) {
            Ok(tree) => name_tensors(damage, &tree),
            Err(_) => damage,
        }
    }

    /// The checked content of a small record.
    fn content(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let Some(source) = self.records.get(name) else {
            return Err(Error::damaged(Place::record(name), "the record is missing"));
        };
        if source.len() > limit {
            return Err(Error::damaged(Place::record(name), "the record is too long"));
        }
        let mut bytes = zeroed(source.len(), "read a record")?.into_vec();
        source.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// The model of a TorchScript archive with what its code calls `CONSTANTS.c0` and so on.
fn with_constants(tree: Value, constants: Value) -> Value {
    match (tree.into_resolved(), constants.into_resolved()) {
        (Value::Object(mut model), Value::Tuple(constants)) if !constants.is_empty() => {
            let names = (0..).map(|number| format!("c{number}"));
            let constants: Dict = names.zip(constants).collect();
            // An attribute may have the name, but none has a dot in its name.
            let is_free = model.content.get("CONSTANTS").is_none();
            model.content.insert(if is_free { "CONSTANTS" } else { CONSTANTS }, constants);
            Value::Object(model)
        }
        (tree, _) => tree,
    }
}

/// The first bytes of a source.
struct Cut {
    source: Arc<dyn Source>,
    len: u64,
}

impl Source for Cut {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.source.read_at(offset, buf)
    }

    fn pass(&self) -> Box<dyn Pass + '_> {
        Box::new(CutPass {
            pass: self.source.pass(),
            len: self.len,
            over: self.source.len() - self.len,
        })
    }

    fn record(&self) -> Option<&str> {
        self.source.record()
    }

    fn file_range(&self) -> Option<Range<u64>> {
        let range = self.source.file_range()?;
        Some(range.start..range.start + self.len)
    }
}

/// A checked read of the whole source, whose last bytes are not passed on.
struct CutPass<'a> {
    pass: Box<dyn Pass + 'a>,
    len: u64,
    over: u64,
}

impl Pass for CutPass<'_> {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset + (buf.len() as u64) < self.len {
            return self.pass.read(offset, buf);
        }
        let mut whole = vec![0; buf.len() + self.over as usize];
        self.pass.read(offset, &mut whole)?;
        buf.copy_from_slice(&whole[..buf.len()]);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.pass.finish()
    }
}

fn is_zip(file: &dyn ReadAt) -> bool {
    let mut start = [0; LOCAL.len()];
    file.read_at(0, &mut start).is_ok() && start == LOCAL
}

/// Whether the file ends as our own do. The root itself is not checked.
fn ends_with_root(file: &dyn ReadAt) -> bool {
    let mut prefix = vec![0; ROOT_PREFIX.len()];
    let start = file.len().checked_sub((ROOT_PREFIX.len() + ROOT_LEN) as u64);
    start.is_some_and(|start| file.read_at(start, &mut prefix).is_ok()) && prefix == ROOT_PREFIX
}

/// The bytes of a record that the root covers.
fn raw(file: &Arc<dyn ReadAt>, record: &Record) -> Result<Vec<u8>> {
    let mut bytes = zeroed(record.size, "read a record")?.into_vec();
    file.read_at(record.data, &mut bytes).map_err(|error| Error::io("read", error))?;
    Ok(bytes)
}

/// The manifest at the start of a file, by one short read; `None` if there is none.
///
/// The manifest's own checksum and the length of the file are checked, nothing else.
///
/// # Errors
/// [`Error::Damaged`] if the file begins with a manifest that is not what was saved.
pub fn peek(file: &dyn ReadAt) -> Result<Option<Manifest>> {
    const FIRST: usize = 4 << 10;
    let read = |len: usize| -> Result<Vec<u8>> {
        let mut bytes = zeroed(file.len().min(len as u64), "read the manifest")?.into_vec();
        file.read_at(0, &mut bytes).map_err(|error| Error::io("read", error))?;
        Ok(bytes)
    };
    let start = read(FIRST)?;
    let Some((data, size, crc)) = super::zip::read::first_record(&start, MANIFEST) else {
        return Ok(None);
    };
    if size > manifest::MAX_MANIFEST {
        return Err(Error::damaged(Place::record(MANIFEST), "the record is too long"));
    }
    let end = data + size as usize;
    let bytes = if end <= start.len() { start } else { read(end)? };
    let content = bytes.get(data..end).unwrap_or_default();
    if crc32fast::hash(content) != crc {
        return Err(Error::damaged(Place::record(MANIFEST), "checksum mismatch (CRC-32)"));
    }
    let manifest = Manifest::decode(content)?;
    if manifest.file_size() != Some(file.len()) {
        return Err(Error::damaged(
            Place::default(),
            format!("the file has {} bytes, but {} were saved", file.len(), manifest.file_size),
        ));
    }
    Ok(Some(manifest))
}
