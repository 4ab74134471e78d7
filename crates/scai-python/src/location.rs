//! Where a path or a URL leads.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use scai_checkpoint::store::{self, Location};

/// Options of an object store by name.
pub(crate) type StorageOptions = BTreeMap<String, String>;

/// Whether what looks like a path is the URL of something in an object store.
#[pyfunction]
pub(crate) fn is_url(path: PathBuf) -> bool {
    store::is_url(path)
}

/// The location that Python names.
pub(crate) fn located(path: &Path, options: Option<StorageOptions>) -> PyResult<Location> {
    let location = Location::new(path);
    let location =
        location.and_then(|found| found.with_storage_options(options.unwrap_or_default()));
    location.map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
        _ => error.into(),
    })
}
