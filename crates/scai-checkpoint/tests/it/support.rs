//! Things several tests need.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use scai_checkpoint::codec::torch::{TorchFile, TorchPlan, Unprotected};
use scai_checkpoint::store::{Directory, DirectoryStore, ReadAt, Store, WriteAt};
use scai_checkpoint::{CheckpointManager, Value};

/// The file names of all checkpoints of a directory, by iteration.
pub(crate) fn names(manager: &CheckpointManager) -> Vec<String> {
    let paths = manager.paths().unwrap().into_iter();
    paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The store whose entries are the files of a directory.
pub(crate) fn over<D: Directory + 'static>(directory: D) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::on(directory))
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| self.0.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The folder `fixtures/golden` of the repository.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden")
}

pub(crate) fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below `folder` that end in `.pt`, sorted.
pub(crate) fn pt_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pt_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "pt") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Opens bytes as a `.pt` file.
pub(crate) fn open(bytes: Vec<u8>, unprotected: Unprotected) -> scai_checkpoint::Result<TorchFile> {
    TorchFile::open(Arc::new(Bytes(bytes)), unprotected)
}

/// A file being written in memory, each byte of which is written once.
#[derive(Debug)]
struct Once(Mutex<Vec<Option<u8>>>);

impl WriteAt for Once {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        for (place, &byte) in file[offset as usize..].iter_mut().zip(bytes) {
            assert!(place.replace(byte).is_none(), "a byte is written twice");
        }
        Ok(())
    }
}

/// The bytes of the `.pt` file for a tree.
pub(crate) fn write(tree: &Value) -> scai_checkpoint::Result<Vec<u8>> {
    let plan = TorchPlan::new(tree)?;
    in_memory(plan.len(), |file| plan.write(2, file))
}

/// The bytes of a file of `len` bytes that `write` writes.
pub(crate) fn in_memory<T>(
    len: u64,
    write: impl FnOnce(&dyn WriteAt) -> scai_checkpoint::Result<T>,
) -> scai_checkpoint::Result<Vec<u8>> {
    let file = Once(Mutex::new(vec![None; len as usize]));
    write(&file)?;
    let file = file.0.into_inner().unwrap();
    Ok(file.into_iter().map(|byte| byte.expect("a byte is not written")).collect())
}
