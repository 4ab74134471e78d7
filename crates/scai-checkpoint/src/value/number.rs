//! Numbers in any form in which a training script kept them.

use super::Value;
use crate::error::Result;
use crate::tensor::DType;

/// Above this, floats do not represent every whole number.
const EXACT: f64 = (1_i64 << f64::MANTISSA_DIGITS) as f64;

impl Value {
    /// The whole number that this is: an integer, a float without a fraction, or a tensor of one
    /// such element. `None` for anything else.
    ///
    /// # Errors
    /// Those of reading the tensor.
    pub fn whole_number(&self) -> Result<Option<i64>> {
        let Some(tensor) = self.as_tensor() else {
            return Ok(self.as_int().or_else(|| self.as_float().and_then(whole)));
        };
        if tensor.numel() != 1 {
            return Ok(None);
        }
        let bytes = tensor.to_bytes()?;
        Ok(match (tensor.dtype(), bytes.as_slice()) {
            (DType::Int64, &[a, b, c, d, e, f, g, h]) => {
                Some(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            (DType::Int32, &[a, b, c, d]) => Some(i32::from_le_bytes([a, b, c, d]).into()),
            (DType::Int16, &[a, b]) => Some(i16::from_le_bytes([a, b]).into()),
            (DType::Int8, &[a]) => Some((a as i8).into()),
            (DType::UInt8, &[a]) => Some(a.into()),
            (DType::Float32, &[a, b, c, d]) => whole(f32::from_le_bytes([a, b, c, d]).into()),
            (DType::Float64, &[a, b, c, d, e, f, g, h]) => {
                whole(f64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => None,
        })
    }
}

fn whole(float: f64) -> Option<i64> {
    (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
}
