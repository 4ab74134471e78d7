//! burn's trait.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn_std::Bytes;
use burn_train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};
use scai_checkpoint::error::{Error, Place, Result};
use scai_checkpoint::store::IntoLocation;

use crate::coordinator::Coordinator;
use crate::part::Part;

/// Saves and restores one of the three records of an epoch, which is committed with the other two.
///
/// [`checkpointers`] makes all three.
#[derive(Debug)]
pub struct EpochCheckpointer {
    part: Part,
    coordinator: Arc<Coordinator>,
    /// Two threads that save one part would write one file.
    saving: Mutex<()>,
}

/// The checkpointers of the model, the optimizer and the learning rate scheduler, in the order that burn's
/// `with_custom_checkpointers` takes them. Epochs are saved in `directory`.
///
/// Nothing is read or written yet: the first save makes the directory.
///
/// # Errors
/// [`Error::Io`] if `directory` is a URL that is not a local directory, or is relative while there is no
/// working directory.
pub fn checkpointers(
    directory: impl IntoLocation,
) -> Result<(EpochCheckpointer, EpochCheckpointer, EpochCheckpointer)> {
    let given = directory.to_path_buf();
    let location = directory.into_location();
    let location =
        location.map_err(|error| Error::io("find the directory", error).at_path(&given))?;
    let path = location.as_path().unwrap_or(&given);
    let coordinator = Arc::new(Coordinator::new(path.into()));
    let of = |part| EpochCheckpointer {
        part,
        coordinator: Arc::clone(&coordinator),
        saving: Mutex::new(()),
    };
    Ok((of(Part::Model), of(Part::Optimizer), of(Part::Scheduler)))
}

impl<R: Checkpoint> Checkpointer<R> for EpochCheckpointer {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |path: &Path| {
            record.save(PathBuf::from(path)).map_err(|error| without_staging(&error, path))
        };
        self.coordinator.save(self.part, epoch, write).map_err(reported)
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        self.coordinator.delete(self.part, epoch).map_err(reported)
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        let (path, bytes) = self.coordinator.restore(self.part, epoch).map_err(reported)?;
        R::checkpoint_from_bytes(Bytes::from_bytes_vec(bytes)).map_err(|error| {
            reported(Error::Unsupported {
                place: Box::new(Place { path: Some(path), ..Place::default() }),
                what: format!("burn cannot read the file ({error})"),
                hint: "its bytes are those that were saved, so another version of burn wrote it"
                    .into(),
            })
        })
    }
}

/// What burn says of a failed write, with the name that the file was to have.
fn without_staging(error: &CheckpointerError, path: &Path) -> String {
    let text = match error {
        CheckpointerError::IOError(error) => error.to_string(),
        CheckpointerError::Record(error) => error.to_string(),
        CheckpointerError::Unknown(error) => error.clone(),
    };
    let directory = path.parent().map(|path| format!("{}/", path.display())).unwrap_or_default();
    text.replace(&directory, "")
}

/// burn shows an error of a restore in the form for debugging, so this one reads like text there.
struct Reported(Error);

impl std::fmt::Debug for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Reported {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

fn reported(error: Error) -> CheckpointerError {
    CheckpointerError::IOError(std::io::Error::other(Reported(error)))
}
