//! Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently
//! wrong.

#[cfg(target_endian = "big")]
compile_error!(
    "scai-checkpoint writes tensors as they lie in memory and needs a little-endian machine"
);

mod checkpoint;
pub mod codec;
mod dtype;
pub mod error;
pub mod file;
pub mod load;
pub mod manager;
pub mod memory;
mod read_options;
mod report;
pub mod retention;
pub mod store;
pub mod tensor;
mod threads;
mod timeline;
pub mod value;
pub mod verify;
mod writer;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use manager::{CheckpointManager, Options, Resumed};
pub use retention::Retention;
pub use tensor::{DType, Tensor};
pub use value::{Dict, Value};
pub use writer::{SaveHandle, Saved};

/// What tests need to break things on purpose, and to see that nothing broke.
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::store::commit::{
        lock, point, publish, publish_entry, publish_in_child, remove_durably, set_aside,
    };
    pub use crate::store::contract::{check_directory, check_store};
    pub use crate::store::disk::{CrashReport, CrashState, Ledger, SimulatedDisk};
    pub use crate::store::fault::{Effect, Failure, Fault, FaultDirectory, Op, Times};
}

/// Bytes that one digest covers. Damage is located to this size.
pub const CHUNK_SIZE: usize = 64 * 1024;

/// The code in the README compiles and runs.
#[cfg(doctest)]
mod readme {
    #[doc = include_str!("../../../README.md")]
    struct English;
    #[doc = include_str!("../../../README.zh.md")]
    struct Chinese;
}
