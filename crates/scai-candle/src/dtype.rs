//! Element types of candle as those of a checkpoint, and back.

use candle_core::DType as CandleDType;
use scai_checkpoint::error::Place;
use scai_checkpoint::{DType, Error, Result};

/// The types that both have.
const SAME: [(CandleDType, DType); 10] = [
    (CandleDType::F64, DType::Float64),
    (CandleDType::F32, DType::Float32),
    (CandleDType::F16, DType::Float16),
    (CandleDType::BF16, DType::BFloat16),
    (CandleDType::F8E4M3, DType::Float8E4M3Fn),
    (CandleDType::I64, DType::Int64),
    (CandleDType::I32, DType::Int32),
    (CandleDType::I16, DType::Int16),
    (CandleDType::U32, DType::UInt32),
    (CandleDType::U8, DType::UInt8),
];

/// The element type that stands for a variable's in a checkpoint.
///
/// # Errors
/// [`Error::Unsupported`] if there is none: the types that candle can hold but not compute with.
pub(crate) fn checkpoint_dtype(dtype: CandleDType, name: &str) -> Result<DType> {
    let found = SAME.iter().find(|(candle, _)| *candle == dtype);
    found.map(|(_, dtype)| *dtype).ok_or_else(|| Error::Unsupported {
        place: at(name),
        what: format!("candle's element type `{}`, which a checkpoint cannot hold", dtype.as_str()),
        hint: "convert it to another type first".to_owned(),
    })
}

/// The element type that a tensor of a checkpoint has in candle.
///
/// # Errors
/// [`Error::Unsupported`] if candle does not have it.
pub(crate) fn candle_dtype(dtype: DType, name: &str) -> Result<CandleDType> {
    let found = SAME.iter().find(|(_, checkpoint)| *checkpoint == dtype);
    found.map(|(candle, _)| *candle).ok_or_else(|| Error::Unsupported {
        place: at(name),
        what: format!("candle has no element type `{dtype}`"),
        hint: "convert the file first, with `scai convert --dtype`".to_owned(),
    })
}

fn at(name: &str) -> Box<Place> {
    Box::new(Place { tensor: Some(name.to_owned()), ..Place::default() })
}
