//! safetensors files: flat, for exchange with other tools.
//!
//! # The file
//!
//! ```text
//! 8 bytes      the length of the header, little-endian
//! header       JSON, padded with spaces to a multiple of 8:
//!   "__metadata__":
//!     "scai.root"     32 hexadecimal digits over the header and the length of the file
//!     "format"        "pt"
//!     "scai.aliases"  JSON {"alias": "name"}: tied tensors that are stored once
//!     "scai.digests"  JSON {"name": 32 hexadecimal digits}: a digest of each tensor
//!     "scai.tree"     JSON: everything that is not a tensor, and where the tensors belong
//!     "scai.notes"    what a binding keeps beside the tree, if anything
//!     …               the metadata of the file that this one was converted from
//!   "name": {"dtype": …, "shape": …, "data_offsets": …}   one for each tensor
//! data         the tensors, contiguous, without gaps, large elements first
//! ```
//!
//! The name of a tensor is its path in the state tree. The digest of a tensor is XXH3-128 over the
//! XXH3-128 digests (little-endian) of its chunks of 64 KiB. The root is XXH3-128 over the length
//! of the file (8 bytes, little-endian) and the header with the digits of the root as zeros; it
//! is at the start of the header, so that a program that rewrites the file and keeps the metadata
//! is detected. Files of other programs have none of this ([`Protection::None`]) and are read as a
//! dict of tensors.
//!
//! The format has neither sharing nor strides. A file of this crate nevertheless keeps ties between tensors,
//! views of a tensor that is stored as well, and the strides of tensors that fill their memory (channels
//! last). Any other view becomes a tensor of its own ([`SafetensorsPlan::apart`]).
//!
//! [`Protection::None`]: super::Protection::None

mod file;
mod header;
mod plan;
mod tree;

use safetensors::Dtype;

pub use file::SafetensorsFile;
pub use plan::SafetensorsPlan;

use crate::tensor::DType;

/// What the format calls an element type; `None` for one that it lacks.
fn to_format(dtype: DType) -> Option<Dtype> {
    PAIRS.iter().find(|(ours, _)| *ours == dtype).map(|&(_, theirs)| theirs)
}

fn from_format(dtype: Dtype) -> Option<DType> {
    PAIRS.iter().find(|(_, theirs)| *theirs == dtype).map(|&(ours, _)| ours)
}

/// Numbers that PyTorch counts as one element and the format as several: two of 4 bits in a byte.
fn packed(dtype: Dtype) -> usize {
    if dtype == Dtype::F4 { 2 } else { 1 }
}

/// A shape as the format counts it; `None` if it cannot.
fn shape_to_format(dtype: Dtype, shape: &[usize]) -> Option<Vec<usize>> {
    let mut shape = shape.to_vec();
    match shape.last_mut() {
        Some(last) => *last = last.checked_mul(packed(dtype))?,
        None if packed(dtype) > 1 => return None,
        None => {}
    }
    Some(shape)
}

/// A shape as PyTorch counts it; `None` if it cannot.
fn shape_from_format(dtype: Dtype, shape: &[usize]) -> Option<Vec<usize>> {
    let mut shape = shape.to_vec();
    match shape.last_mut() {
        Some(last) if last.is_multiple_of(packed(dtype)) => *last /= packed(dtype),
        None if packed(dtype) == 1 => {}
        _ => return None,
    }
    Some(shape)
}

const PAIRS: [(DType, Dtype); 20] = [
    (DType::Bool, Dtype::BOOL),
    (DType::UInt8, Dtype::U8),
    (DType::Int8, Dtype::I8),
    (DType::Float4E2M1FnX2, Dtype::F4),
    (DType::Float8E5M2, Dtype::F8_E5M2),
    (DType::Float8E4M3Fn, Dtype::F8_E4M3),
    (DType::Float8E8M0Fnu, Dtype::F8_E8M0),
    (DType::Float8E4M3FnUz, Dtype::F8_E4M3FNUZ),
    (DType::Float8E5M2FnUz, Dtype::F8_E5M2FNUZ),
    (DType::Int16, Dtype::I16),
    (DType::UInt16, Dtype::U16),
    (DType::Float16, Dtype::F16),
    (DType::BFloat16, Dtype::BF16),
    (DType::Int32, Dtype::I32),
    (DType::UInt32, Dtype::U32),
    (DType::Float32, Dtype::F32),
    (DType::Complex64, Dtype::C64),
    (DType::Float64, Dtype::F64),
    (DType::Int64, Dtype::I64),
    (DType::UInt64, Dtype::U64),
];
