//! Elements of tensors as numbers.

use half::{bf16, f16};
use scai_checkpoint::{DType, Result, Tensor};
use serde_json::Value as Json;

/// Bytes decoded at a time: memory does not grow with the tensor.
pub(crate) const PIECE: u64 = 64 << 10;

/// Decoded elements.
#[derive(Debug)]
pub(crate) enum Numbers {
    /// Integers; truth values are 0 and 1.
    Ints(Vec<i128>),
    /// Real numbers.
    Floats(Vec<f64>),
    /// Real and imaginary parts.
    Complex(Vec<[f64; 2]>),
}

/// Decodes elements from their bytes; `None` where the type stands for no number of its own
/// (quantised, packed).
pub(crate) fn decode(dtype: DType, bytes: &[u8]) -> Option<Numbers> {
    use DType::*;

    macro_rules! ints {
        ($type:ty) => {
            Numbers::Ints(each(bytes, |raw| <$type>::from_le_bytes(raw).into()))
        };
    }
    let byte = |decode: fn(u8) -> f64| Numbers::Floats(bytes.iter().map(|&b| decode(b)).collect());
    Some(match dtype {
        Bool | UInt8 => ints!(u8),
        Int8 => ints!(i8),
        Int16 => ints!(i16),
        UInt16 => ints!(u16),
        Int32 => ints!(i32),
        UInt32 => ints!(u32),
        Int64 => ints!(i64),
        UInt64 => ints!(u64),
        Float64 => Numbers::Floats(each(bytes, f64::from_le_bytes)),
        Float32 => Numbers::Floats(each(bytes, |raw| f32::from_le_bytes(raw).into())),
        Float16 => Numbers::Floats(each(bytes, |raw| f16::from_le_bytes(raw).into())),
        BFloat16 => Numbers::Floats(each(bytes, |raw| bf16::from_le_bytes(raw).into())),
        Float8E4M3Fn => byte(|b| small(b, 3, 7, b & 0x7f == 0x7f)),
        Float8E4M3FnUz => byte(|b| small(b, 3, 8, b == 0x80)),
        Float8E5M2FnUz => byte(|b| small(b, 2, 16, b == 0x80)),
        Float8E5M2 => byte(|b| match b & 0x7f {
            0x7c => f64::INFINITY.copysign(if b & 0x80 == 0 { 1.0 } else { -1.0 }),
            magnitude => small(b, 2, 15, magnitude > 0x7c),
        }),
        Float8E8M0Fnu => byte(|b| if b == 255 { f64::NAN } else { (f64::from(b) - 127.0).exp2() }),
        Complex64 => Numbers::Complex(pairs(each(bytes, |raw| f32::from_le_bytes(raw).into()))),
        Complex128 => Numbers::Complex(pairs(each(bytes, f64::from_le_bytes))),
        Complex32 => Numbers::Complex(pairs(each(bytes, |raw| f16::from_le_bytes(raw).into()))),
        BComplex32 => Numbers::Complex(pairs(each(bytes, |raw| bf16::from_le_bytes(raw).into()))),
        _ => return None,
    })
}

fn each<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&raw| decode(raw)).collect()
}

fn pairs(parts: Vec<f64>) -> Vec<[f64; 2]> {
    parts.as_chunks().0.to_vec()
}

/// A float of eight bits without infinities.
fn small(bits: u8, mantissa_bits: u32, bias: i32, is_nan: bool) -> f64 {
    if is_nan {
        return f64::NAN;
    }
    let exponent = i32::from((bits & 0x7f) >> mantissa_bits);
    let fraction = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let (significand, exponent) =
        if exponent == 0 { (fraction, 1 - bias) } else { (1.0 + fraction, exponent - bias) };
    let magnitude = significand * f64::from(exponent).exp2();
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// A float as JSON, which has no NaN and no infinities: these are strings.
pub(crate) fn as_json(float: f64) -> Json {
    if float.is_nan() {
        Json::from("NaN")
    } else if float.is_infinite() {
        Json::from(if float > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        Json::from(float)
    }
}

/// Calls `visit` with the bytes of all elements, piece by piece, in the order of memory where the
/// elements fill it, else in row-major order.
///
/// # Errors
/// Those of reading the tensor.
pub(crate) fn pieces(tensor: &Tensor, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
    if !tensor.is_dense() {
        tensor.to_bytes()?.chunks(PIECE as usize).for_each(visit);
        return Ok(());
    }
    let start = (tensor.offset() * tensor.dtype().size()) as u64;
    let (len, mut buffer) = (tensor.nbytes(), Vec::new());
    for at in (0..len).step_by(PIECE as usize) {
        buffer.resize(PIECE.min(len - at) as usize, 0);
        tensor.storage().read_at(start + at, &mut buffer)?;
        visit(&buffer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(dtype: DType, byte: u8) -> f64 {
        match decode(dtype, &[byte]) {
            Some(Numbers::Floats(floats)) => floats[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn eight_bit_floats_have_the_values_of_their_definitions() {
        use DType::*;
        assert_eq!(decoded(Float8E4M3Fn, 0x7e), 448.0);
        assert_eq!(decoded(Float8E4M3Fn, 0x81), -(2.0_f64.powi(-9)));
        assert!(decoded(Float8E4M3Fn, 0xff).is_nan());
        assert_eq!(decoded(Float8E5M2, 0x7b), 57344.0);
        assert_eq!(decoded(Float8E5M2, 0xfc), f64::NEG_INFINITY);
        assert!(decoded(Float8E5M2, 0x7d).is_nan());
        assert_eq!(decoded(Float8E5M2, 0x01), 2.0_f64.powi(-16));
        assert_eq!(decoded(Float8E4M3FnUz, 0x7f), 240.0);
        assert!(decoded(Float8E4M3FnUz, 0x80).is_nan());
        assert_eq!(decoded(Float8E5M2FnUz, 0x7f), 57344.0);
        assert_eq!(decoded(Float8E8M0Fnu, 127), 1.0);
        assert!(decoded(Float8E8M0Fnu, 255).is_nan());
    }
}
