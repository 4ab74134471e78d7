//! Errors of the trainer as exceptions of Python.

use std::io::ErrorKind;

use pyo3::exceptions::{PyFileNotFoundError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use scai_train::Error;
use scai_train::config::ConfigError;

use crate::errors::{class, os_error, raise, raise_saying};

/// What `?` turns into an exception in functions that return a [`PyResult`].
pub(super) trait OrRaise<T> {
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(|error| exception(&error))
    }
}

fn exception(error: &Error) -> PyErr {
    match error {
        Error::Checkpoint(error) => raise(error),
        Error::NotSaved { source, .. } => match &**source {
            Error::Checkpoint(source) => raise_saying(source, error.to_string()),
            _ => PyRuntimeError::new_err(error.to_string()),
        },
        Error::State(_) => mismatch(error.to_string()),
        error => PyRuntimeError::new_err(error.to_string()),
    }
}

fn mismatch(message: String) -> PyErr {
    Python::attach(|py| {
        match class(py, "MismatchError").and_then(|class| class.call1((message,))) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    })
}

/// The exception for settings that cannot be used.
pub(super) fn refused(error: ConfigError) -> PyErr {
    match &error {
        ConfigError::Unreadable { name, source } if source.kind() == ErrorKind::NotFound => {
            PyFileNotFoundError::new_err(format!("there is no settings file `{name}`"))
        }
        ConfigError::Unreadable { source, .. } => Python::attach(|py| {
            os_error(py, source, error.to_string()).unwrap_or_else(|error| error)
        }),
        error => PyValueError::new_err(error.to_string()),
    }
}
