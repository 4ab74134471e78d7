//! The extension module `scai._native`: the engine, the command and the trainer, for Python.
//!
//! A mirror: each file is one part of `python/scai/_native.pyi`. Types of Python and PyTorch are
//! known in `encode` and `decode` alone, raw memory in `memory` and `dlpack` alone. The interpreter is
//! detached wherever files are touched.

mod command;
mod decode;
mod dlpack;
mod encode;
mod errors;
mod file;
mod folder;
mod live;
mod location;
mod manager;
mod memory;
mod notes;
mod pool;
mod shards;
mod sync;
mod torch;
#[cfg(feature = "train")]
mod trainer;
mod tree;
mod write;

use pyo3::prelude::{Bound, PyModule, PyModuleMethods, PyResult, pymodule};
use scai_checkpoint::memory::{WithReserve, keep_reserve};

/// A lack of memory is an exception, which training can catch, and does not end the process.
#[global_allocator]
static ALLOCATOR: WithReserve = WithReserve;

fn begin(module: &Bound<'_, PyModule>) -> PyResult<()> {
    keep_reserve();
    module.add("THREADS", scai_checkpoint::manager::default_threads())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}

#[pymodule]
mod _native {
    /// Called once, when the module is imported.
    #[pymodule_init]
    fn init(module: &super::Bound<'_, super::PyModule>) -> super::PyResult<()> {
        super::begin(module)
    }

    #[pymodule_export]
    use super::command::main;
    #[pymodule_export]
    use super::file::{File, verify};
    #[pymodule_export]
    use super::folder::{Staging, folder_commit, folder_remove, folder_sweep, folder_verify};
    #[pymodule_export]
    use super::live::Live;
    #[pymodule_export]
    use super::location::is_url;
    #[pymodule_export]
    use super::manager::{Handle, Manager, retention};
    #[pymodule_export]
    use super::pool::Pool;
    #[pymodule_export]
    use super::shards::{Attempt, Shard, ShardedSave, shards_check};
    #[cfg(feature = "train")]
    #[pymodule_export]
    use super::trainer::Trainer;
    #[pymodule_export]
    use super::tree::{Filling, Tree, renamed};
    #[pymodule_export]
    use super::write::{create_directory, write_bytes};
}
