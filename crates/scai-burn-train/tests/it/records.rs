//! Records whose writing a test can fail, and reading an epoch back.

use std::fs;
use std::path::{Path, PathBuf};

use burn::store::RecordError;
use burn::tensor::Bytes;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};
use scai_burn_train::{EpochCheckpointer, checkpointers};

/// A record that is text; an empty one cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl Checkpoint for Text {
    fn save(self, path: PathBuf) -> Result<(), CheckpointerError> {
        fs::write(&path, &self.0).map_err(CheckpointerError::IOError)?;
        if self.0.is_empty() {
            return Err(CheckpointerError::Unknown(format!("no power at {}", path.display())));
        }
        Ok(())
    }

    fn load(path: PathBuf) -> Result<Self, CheckpointerError> {
        fs::read_to_string(path).map(Self).map_err(CheckpointerError::IOError)
    }

    fn checkpoint_from_bytes(bytes: Bytes) -> Result<Self, RecordError> {
        let text = String::from_utf8(bytes.to_vec());
        text.map(Self).map_err(|error| RecordError::Io(error.to_string()))
    }

    fn checkpoint_into_bytes(self) -> Result<Bytes, RecordError> {
        Ok(Bytes::from_bytes_vec(self.0.into_bytes()))
    }
}

/// The three checkpointers of a directory.
pub(crate) struct Three([EpochCheckpointer; 3]);

pub(crate) const FILES: [&str; 3] = ["model", "optim", "scheduler"];

impl Three {
    pub(crate) fn of(directory: &Path) -> Self {
        Self(checkpointers(directory).unwrap().into())
    }

    pub(crate) fn save(
        &self,
        part: usize,
        epoch: usize,
        text: &str,
    ) -> Result<(), CheckpointerError> {
        self.0[part].save(epoch, Text(text.to_owned()))
    }

    pub(crate) fn save_all(&self, epoch: usize, text: &str) {
        (0..3).for_each(|part| self.save(part, epoch, &format!("{text} {part}")).unwrap());
    }

    pub(crate) fn delete(&self, part: usize, epoch: usize) {
        Checkpointer::<Text>::delete(&self.0[part], epoch).unwrap();
    }

    pub(crate) fn delete_all(&self, epoch: usize) {
        (0..3).for_each(|part| self.delete(part, epoch));
    }

    pub(crate) fn restore(&self, part: usize, epoch: usize) -> Result<String, CheckpointerError> {
        Ok(Checkpointer::<Text>::restore(&self.0[part], epoch)?.0)
    }

    pub(crate) fn into_array(self) -> [EpochCheckpointer; 3] {
        self.0
    }
}

/// The epochs that are committed, and whether nothing else is there: no file and no directory of an epoch
/// that is not complete.
pub(crate) fn epochs(directory: &Path) -> Vec<usize> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if let Some(epoch) = name.strip_prefix("epoch-") {
            assert_eq!(
                scai_checkpoint::folder::verify(entry.path(), 1).unwrap().len(),
                0,
                "{name}"
            );
            found.push(epoch.parse().unwrap());
        }
    }
    found.sort_unstable();
    found
}

/// All names in a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}
