//! Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently
//! wrong.

#[cfg(target_endian = "big")]
compile_error!(
    "scai-checkpoint writes tensors as they lie in memory and needs a little-endian machine"
);

pub mod codec;
mod commit;
mod error;
mod file;
mod manager;
pub mod memory;
pub mod store;
mod tensor;
mod threads;
mod timeline;
mod value;
mod writer;

pub use error::{Error, Place, Result};
pub use file::{open_file, verify_file, write_file, write_file_with};
pub use manager::{
    Answers, Candidate, Checkpoint, CheckpointManager, Condition, Goal, Listed, LoadReport,
    MatchOptions, Matched, Options, Prune, Reason, Residency, Resume, Resumed, Retention, Rule,
    Saved, ShapeMismatch, Skipped, Strictness, TensorSpec, Unreadable, Verdict, Verification,
    match_state, transfer_optimizer, verify,
};
pub use store::Io;
pub use tensor::{
    Attributes, DType, Destination, Element, MAX_RANK, Pass, Source, Storage, Tensor, read_into,
};
pub use timeline::Timeline;
pub use value::{
    Call, Dict, DictKind, MAX_DEPTH, Object, Shared, Value, from_value, join, to_value,
};
pub use writer::SaveHandle;

/// What tests need to break things on purpose, and to see that nothing broke.
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::commit::{lock, point, publish, remove_durably, set_aside};
    pub use crate::store::contract::check as check_store;
    pub use crate::store::disk::{CrashReport, CrashState, Ledger, SimulatedDisk};
    pub use crate::store::fault::{Effect, Failure, Fault, FaultStore, Op, Times};
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
