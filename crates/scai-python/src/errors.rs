//! Errors of the engine as exceptions of Python; the classes are in `python/scai/errors.py`.

use std::io::ErrorKind;

use pyo3::exceptions::{PyFileNotFoundError, PyMemoryError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use scai_checkpoint::load::LoadReport;
use scai_checkpoint::{Checkpoint, Error};

/// The exception for an error of the engine.
pub(crate) fn raise(error: &Error) -> PyErr {
    raise_saying(error, error.to_string())
}

/// The exception for an error of the engine, with more to say about it.
pub(crate) fn raise_saying(error: &Error, message: String) -> PyErr {
    Python::attach(|py| exception(py, error, message).unwrap_or_else(|error| error))
}

/// What `?` turns into an exception in functions that return a [`PyResult`].
pub(crate) trait OrRaise<T> {
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(|error| raise(&error))
    }
}

/// `message` is what the error says; where it is the cause of another, that one's words.
fn exception(py: Python<'_>, error: &Error, message: String) -> PyResult<PyErr> {
    let class = |name: &str| class(py, name);
    let raised = match error {
        Error::NotFound { .. } => return Ok(PyFileNotFoundError::new_err(message)),
        Error::Io { source, .. } => return os_error(py, source, message),
        Error::DiskFull { source, .. } => return os_error(py, source, message),
        Error::NotDurable { .. } => class("NotDurableError")?.call1((message,))?,
        Error::Damaged { .. } | Error::Unprotected { .. } => {
            let name = match error {
                Error::Damaged { .. } => "DamagedError",
                _ => "UnprotectedError",
            };
            let place = error.place().cloned().unwrap_or_default();
            let known = PyDict::new(py);
            known.set_item("path", place.path.map(|path| path.to_string_lossy().into_owned()))?;
            known.set_item("record", place.record)?;
            known.set_item("tensor", place.tensor)?;
            known.set_item("bytes", place.bytes.map(|bytes| (bytes.start, bytes.end)))?;
            class(name)?.call((message,), Some(&known))?
        }
        Error::Unsupported { .. } => class("UnsupportedError")?.call1((message,))?,
        Error::NeedsCode { .. } => class("NeedsCodeError")?.call1((message,))?,
        Error::NotACheckpoint { .. } => class("NotACheckpointError")?.call1((message,))?,
        Error::OutOfMemory { .. } => return Ok(PyMemoryError::new_err(message)),
        Error::MissingField { field, .. } => {
            let advice = if Checkpoint::REQUIRED.contains(&&**field) {
                "read files that are not training checkpoints with scai.load()"
            } else {
                "omit that part from the call"
            };
            class("MissingFieldError")?.call1((format!("{message}; {advice}"), field.as_str()))?
        }
        Error::Mismatch { report, .. } => {
            class("MismatchError")?.call1((message, report_dict(py, report)?))?
        }
        Error::Changed { .. } => {
            let advice = "change it only in optimizer.step(), or save with snapshot=\"copy\"";
            class("ChangedError")?.call1((format!("{message}; {advice}"),))?
        }
        Error::Locked { .. } => class("LockedError")?.call1((message,))?,
        Error::NothingToResume { .. } => {
            let advice = "restore a copy of one, or start in another directory";
            class("NothingToResumeError")?.call1((format!("{message}\n{advice}"),))?
        }
        Error::Conversion { .. } => return Ok(PyTypeError::new_err(message)),
        Error::Background(cause) => return exception(py, cause, message),
        Error::Invalid(_) => return Ok(PyValueError::new_err(message)),
        _ => class("CheckpointError")?.call1((message,))?,
    };
    Ok(PyErr::from_value(raised))
}

/// A class of `scai.errors`.
pub(crate) fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("scai.errors")?.getattr(name)
}

/// What a load found, by what became of each name.
pub(crate) fn report_dict<'py>(
    py: Python<'py>,
    report: &LoadReport,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let mismatched: Vec<String> = report.mismatched.iter().map(ToString::to_string).collect();
    dict.set_item("loaded", &report.loaded)?;
    dict.set_item("missing", &report.missing)?;
    dict.set_item("unexpected", &report.unexpected)?;
    dict.set_item("mismatched", mismatched)?;
    dict.set_item("cast", report.cast.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    dict.set_item("hints", &report.hints)?;
    Ok(dict)
}

/// An `OSError` of the class that belongs to the number, saying what the engine says.
pub(crate) fn os_error(
    py: Python<'_>,
    source: &std::io::Error,
    message: String,
) -> PyResult<PyErr> {
    let class = py.get_type::<PyOSError>();
    // What the engine finds out itself has the number that the system has for it.
    let number = source.raw_os_error().or(match source.kind() {
        ErrorKind::NotFound => Some(2),
        ErrorKind::PermissionDenied => Some(13),
        ErrorKind::AlreadyExists => Some(17),
        ErrorKind::IsADirectory => Some(21),
        ErrorKind::InvalidInput => Some(22),
        _ => None,
    });
    Ok(PyErr::from_value(match number {
        Some(number) => class.call1((number, message))?,
        None => class.call1((message,))?,
    }))
}
