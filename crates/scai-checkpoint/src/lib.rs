//! Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently
//! wrong.

#[cfg(target_endian = "big")]
compile_error!(
    "scai-checkpoint writes tensors as they lie in memory and needs a little-endian machine"
);

pub mod codec;
mod error;
mod manager;
pub mod store;
mod tensor;
mod value;

pub use error::{Error, Place, Result};
pub use manager::{LoadReport, ShapeMismatch};
pub use tensor::{Attributes, DType, Element, MAX_RANK, Source, Storage, Tensor};
pub use value::{Call, Dict, DictKind, MAX_DEPTH, Value, from_value, to_value};

/// Bytes that one digest covers. Damage is located to this size.
pub const CHUNK_SIZE: usize = 64 * 1024;
