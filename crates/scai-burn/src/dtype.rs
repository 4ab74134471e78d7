//! Element types of burn as those of a checkpoint.

use burn::tensor::DType as BurnDType;
use scai_checkpoint::error::Place;
use scai_checkpoint::{DType, Error, Result};

/// The element type that stands for a tensor's in a checkpoint.
///
/// # Errors
/// [`Error::Unsupported`] if there is none: quantised tensors.
pub(crate) fn checkpoint_dtype(dtype: BurnDType, name: &str) -> Result<DType> {
    Ok(match dtype {
        BurnDType::F64 => DType::Float64,
        BurnDType::F32 | BurnDType::Flex32 => DType::Float32,
        BurnDType::F16 => DType::Float16,
        BurnDType::BF16 => DType::BFloat16,
        BurnDType::I64 => DType::Int64,
        BurnDType::I32 => DType::Int32,
        BurnDType::I16 => DType::Int16,
        BurnDType::I8 => DType::Int8,
        BurnDType::U64 => DType::UInt64,
        BurnDType::U32 => DType::UInt32,
        BurnDType::U16 => DType::UInt16,
        BurnDType::U8 => DType::UInt8,
        BurnDType::Bool(_) => DType::Bool,
        BurnDType::QFloat(_) => {
            return Err(Error::Unsupported {
                place: Box::new(Place { tensor: Some(name.to_owned()), ..Place::default() }),
                what: "quantised by burn, which a checkpoint cannot hold".to_owned(),
                hint: "save the model before it is quantised".to_owned(),
            });
        }
    })
}
