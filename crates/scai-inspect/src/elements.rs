//! Elements of tensors as numbers.

use half::{bf16, f16};
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{CHUNK_SIZE, DType, Result, Tensor};

/// Bytes decoded at a time, so that memory does not grow with the tensor: those that one digest
/// covers.
pub(crate) const DECODED_AT_ONCE: u64 = CHUNK_SIZE as u64;

/// Elements of a tensor that cost at most this many bytes to copy are read for a preview.
const CHEAP: u64 = 1 << 20;

/// Decoded elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Elements {
    /// Integers; truth values are 0 and 1.
    Ints(Vec<i128>),
    /// Real numbers.
    Floats(Vec<f64>),
    /// Real and imaginary parts.
    Complex(Vec<[f64; 2]>),
}

/// Decodes elements from their little-endian bytes; `None` if the type's elements are not numbers by
/// themselves (quantised, packed).
pub fn decode(dtype: DType, bytes: &[u8]) -> Option<Elements> {
    use DType::*;

    macro_rules! ints {
        ($type:ty) => {
            Elements::Ints(each(bytes, |raw| <$type>::from_le_bytes(raw).into()))
        };
    }
    let byte = |decode: fn(u8) -> f64| Elements::Floats(bytes.iter().map(|&b| decode(b)).collect());
    Some(match dtype {
        Bool | UInt8 => ints!(u8),
        Int8 => ints!(i8),
        Int16 => ints!(i16),
        UInt16 => ints!(u16),
        Int32 => ints!(i32),
        UInt32 => ints!(u32),
        Int64 => ints!(i64),
        UInt64 => ints!(u64),
        Float64 => Elements::Floats(each(bytes, f64::from_le_bytes)),
        Float32 => Elements::Floats(each(bytes, |raw| f32::from_le_bytes(raw).into())),
        Float16 => Elements::Floats(each(bytes, |raw| f16::from_le_bytes(raw).into())),
        BFloat16 => Elements::Floats(each(bytes, |raw| bf16::from_le_bytes(raw).into())),
        Float8E4M3Fn => byte(|b| small(b, 3, 7, b & 0x7f == 0x7f)),
        Float8E4M3FnUz => byte(|b| small(b, 3, 8, b == 0x80)),
        Float8E5M2FnUz => byte(|b| small(b, 2, 16, b == 0x80)),
        Float8E5M2 => byte(|b| match b & 0x7f {
            0x7c => f64::INFINITY.copysign(if b & 0x80 == 0 { 1.0 } else { -1.0 }),
            magnitude => small(b, 2, 15, magnitude > 0x7c),
        }),
        Float8E8M0Fnu => byte(|b| if b == 255 { f64::NAN } else { (f64::from(b) - 127.0).exp2() }),
        Complex64 => Elements::Complex(pairs(each(bytes, |raw| f32::from_le_bytes(raw).into()))),
        Complex128 => Elements::Complex(pairs(each(bytes, f64::from_le_bytes))),
        Complex32 => Elements::Complex(pairs(each(bytes, |raw| f16::from_le_bytes(raw).into()))),
        BComplex32 => Elements::Complex(pairs(each(bytes, |raw| bf16::from_le_bytes(raw).into()))),
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

/// The first `n` elements in row-major order; `None` if they are not numbers, or would cost a large
/// read.
///
/// # Errors
/// Those of reading the tensor.
pub fn first(tensor: &Tensor, n: usize) -> Result<Option<Elements>> {
    let size = tensor.dtype().size();
    let len = n.min(tensor.numel()) * size;
    let bytes = if tensor.is_contiguous() {
        let start = (tensor.offset() * size) as u64;
        tensor.storage().read(start..start + len as u64)?
    } else if tensor.nbytes() <= CHEAP {
        let mut bytes = tensor.to_bytes()?;
        bytes.truncate(len);
        bytes
    } else {
        return Ok(None);
    };
    Ok(decode(tensor.dtype(), &bytes))
}

/// Calls `visit` with the bytes of all elements, a part at a time: in memory order if the elements
/// are dense, else in row-major order.
///
/// # Errors
/// Those of reading the tensor; [`scai_checkpoint::Error::Cancelled`].
pub(crate) fn read_in_parts(
    tensor: &Tensor,
    read: ReadOptions<'_>,
    visit: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    if !tensor.is_dense() {
        read.check()?;
        tensor.to_bytes()?.chunks(DECODED_AT_ONCE as usize).for_each(visit);
        read.report(tensor.nbytes());
        return Ok(());
    }
    let start = (tensor.offset() * tensor.dtype().size()) as u64;
    let (len, mut buffer) = (tensor.nbytes(), Vec::new());
    for at in (0..len).step_by(DECODED_AT_ONCE as usize) {
        read.check()?;
        buffer.resize(DECODED_AT_ONCE.min(len - at) as usize, 0);
        tensor.storage().read_at(start + at, &mut buffer)?;
        visit(&buffer);
        read.report(buffer.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(dtype: DType, byte: u8) -> f64 {
        match decode(dtype, &[byte]) {
            Some(Elements::Floats(floats)) => floats[0],
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
