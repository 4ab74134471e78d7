//! The extension module `scai._native`: the engine, the command and the trainer, for Python.
//!
//! A mirror: each file is one part of `python/scai/_native.pyi`. Types of Python and PyTorch are
//! known in [`encode`] and [`decode`] alone, raw memory in [`memory`] alone. The interpreter is
//! detached wherever files are touched.

mod command;
mod errors;

use pyo3::prelude::pymodule;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::command::main;
}
