//! The command `scai`, as the wheel brings it.

use std::ffi::OsString;

use pyo3::prelude::{Python, pyfunction};

/// Runs the command line with these arguments, the program's name first; returns the exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| scai_cli::main(args))
}
