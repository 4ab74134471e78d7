//! Elements one at a time, by the definitions of their types.

use proptest::prelude::*;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Tensor};

/// An element, or the parts of a complex one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Element {
    Int(i128),
    Float(f64),
    Complex(f64, f64),
}

impl Element {
    pub(crate) fn magnitude(self) -> f64 {
        match self {
            Self::Int(int) => (int as f64).abs(),
            Self::Float(float) => float.abs(),
            Self::Complex(re, im) => re.hypot(im),
        }
    }

    /// A complex element counts by its magnitude.
    pub(crate) fn real(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
            Self::Complex(re, im) => re.hypot(im),
        }
    }

    pub(crate) fn distance(self, other: Self) -> f64 {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => (a - b).abs() as f64,
            (Self::Float(a), Self::Float(b)) => (a - b).abs(),
            (Self::Complex(a, b), Self::Complex(c, d)) => (a - c).hypot(b - d),
            _ => panic!("elements of two types"),
        }
    }
}

/// The element that these bytes are; `None` for types that are not numbers.
pub(crate) fn element(dtype: DType, bytes: &[u8]) -> Option<Element> {
    use DType::*;
    let mut raw = [0; 8];
    raw[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    let unsigned = u64::from_le_bytes(raw);
    // The sign, from the highest of the bits there are.
    let shift = 64 - 8 * bytes.len().min(8);
    let signed = ((unsigned << shift) as i64) >> shift;
    let half = bytes.len() / 2;
    let complex = |exponent, mantissa| {
        let part = |bytes| float(bytes, exponent, mantissa);
        Element::Complex(part(&bytes[..half]), part(&bytes[half..]))
    };
    Some(match dtype {
        Bool | UInt8 | UInt16 | UInt32 | UInt64 => Element::Int(unsigned.into()),
        Int8 | Int16 | Int32 | Int64 => Element::Int(signed.into()),
        Float64 => Element::Float(float(bytes, 11, 52)),
        Float32 => Element::Float(float(bytes, 8, 23)),
        Float16 => Element::Float(float(bytes, 5, 10)),
        BFloat16 => Element::Float(float(bytes, 8, 7)),
        Float8E5M2 => Element::Float(float(bytes, 5, 2)),
        Float8E4M3Fn => Element::Float(match bytes[0] & 0x7f {
            0x7f => f64::NAN,
            _ => finite(unsigned, 4, 3, 7),
        }),
        Float8E4M3FnUz | Float8E5M2FnUz if bytes[0] == 0x80 => Element::Float(f64::NAN),
        Float8E4M3FnUz => Element::Float(finite(unsigned, 4, 3, 8)),
        Float8E5M2FnUz => Element::Float(finite(unsigned, 5, 2, 16)),
        Float8E8M0Fnu if bytes[0] == 0xff => Element::Float(f64::NAN),
        Float8E8M0Fnu => Element::Float(2_f64.powi(i32::from(bytes[0]) - 127)),
        Complex128 => complex(11, 52),
        Complex64 => complex(8, 23),
        Complex32 => complex(5, 10),
        BComplex32 => complex(8, 7),
        _ => return None,
    })
}

/// A float as IEEE 754 has it: the highest exponent is that of infinities and NaN.
fn float(bytes: &[u8], exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let mut raw = [0; 8];
    raw[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(raw);
    let is_special = (bits >> mantissa_bits) % (1 << exponent_bits) == (1 << exponent_bits) - 1;
    let is_negative = bits >> (exponent_bits + mantissa_bits) == 1;
    match (is_special, bits % (1 << mantissa_bits), is_negative) {
        (true, 0, false) => f64::INFINITY,
        (true, 0, true) => f64::NEG_INFINITY,
        (true, ..) => f64::NAN,
        _ => finite(bits, exponent_bits, mantissa_bits, (1 << (exponent_bits - 1)) - 1),
    }
}

fn finite(bits: u64, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let fraction = (bits % (1 << mantissa_bits)) as f64 / 2_f64.powi(mantissa_bits as i32);
    let exponent = ((bits >> mantissa_bits) % (1 << exponent_bits)) as i32;
    // In two steps: the smallest double is not a power that `powi` reaches.
    let scale = |exponent: i32| 2_f64.powi(exponent / 2) * 2_f64.powi(exponent - exponent / 2);
    let magnitude = match exponent {
        0 => fraction * scale(1 - bias),
        _ => (1.0 + fraction) * scale(exponent - bias),
    };
    if bits >> (exponent_bits + mantissa_bits) == 1 { -magnitude } else { magnitude }
}

/// Bytes that make ordinary, extreme and special elements of every type.
pub(crate) fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f), Just(0x80), Just(0x3f)];
    prop::collection::vec(byte, len)
}

/// How the elements of a matrix lie in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Layout {
    Contiguous,
    Transposed,
    /// Every other element.
    Strided,
}

pub(crate) fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Contiguous), Just(Layout::Transposed), Just(Layout::Strided)]
}

/// Elements that bytes are cut into: rows and columns of the matrices.
pub(crate) const SHAPE: [usize; 2] = [6, 7];
/// Bytes that are enough for a matrix of any type and layout, with one element before it.
pub(crate) const LEN: usize = (2 * SHAPE[0] * SHAPE[1] + 1) * 16;

/// A matrix over these bytes, beginning at the second element.
pub(crate) fn matrix(dtype: DType, layout: Layout, bytes: &[u8]) -> Tensor {
    let [rows, columns] = SHAPE;
    let strides = match layout {
        Layout::Contiguous => vec![columns, 1],
        Layout::Transposed => vec![1, rows],
        Layout::Strided => vec![2 * columns, 2],
    };
    let len = (2 * rows * columns + 1) * dtype.size();
    let storage = Storage::from_owner(bytes[..len].to_vec());
    Tensor::new(dtype, SHAPE.to_vec(), strides, 1, storage).unwrap()
}

/// The bytes of each element, in row-major order.
pub(crate) fn elements(tensor: &Tensor) -> Vec<Vec<u8>> {
    let all = tensor.storage().read(0..tensor.storage().len()).unwrap();
    let size = tensor.dtype().size();
    let mut found = Vec::new();
    for row in 0..SHAPE[0] {
        for column in 0..SHAPE[1] {
            let [down, right] = [tensor.strides()[0], tensor.strides()[1]];
            let at = (tensor.offset() + row * down + column * right) * size;
            found.push(all[at..at + size].to_vec());
        }
    }
    found
}

pub(crate) fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::ALL)
}

/// Whether two floats are the same but for rounding, or the same infinity.
pub(crate) fn is_close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(f64::MIN_POSITIVE)
}
