//! NumPy's arrays, scalars and types, read as data.
//!
//! The tree holds a plain form (a tensor, a number, text, bytes), and a note says what it was, as
//! [`crate::Checkpoint::notes`] does for a binding; the tags are those of
//! `python/scai/_convert/_numpy.py`.

use num_bigint::BigInt;
use serde_json::{Value as Json, json};

use super::build::Builder;
use super::globals::{Global, NumPy};
use super::machine::{Called, Id, Node};
use crate::error::{Error, Place, Result};
use crate::tensor::{DType, Storage, Tensor};
use crate::value::{self, Dict, Object, Value};

/// Structured types may nest this deep.
const MAX_FIELDS_DEPTH: usize = 8;

/// The type of the elements of an array.
#[derive(Debug, Clone)]
struct Type {
    /// NumPy's letter: `f`, `i`, `U`; `V` also for structures.
    kind: u8,
    /// Bytes of an element.
    size: usize,
    is_big_endian: bool,
    /// As `dtype.str`, or the fields.
    json: Json,
}

fn odd<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::unsupported(
        Place::record("data.pkl"),
        format!("unsupported NumPy value: {what}"),
        "save it as a tensor, a number or bytes",
    ))
}

impl Builder<'_> {
    /// The plain form of what NumPy's function makes.
    pub(super) fn numpy(
        &mut self,
        id: Id,
        numpy: NumPy,
        called: &Called,
        depth: usize,
    ) -> Result<Value> {
        let args = self.tuple(called.args)?.to_vec();
        let (value, tag) = match (numpy, args.as_slice()) {
            (NumPy::Scalar, &[dtype, data]) => {
                let dtype = self.numpy_type(dtype, 0)?;
                if dtype.kind == b'O' {
                    return self.value(data, depth + 1);
                }
                let data = self.bytes(data)?;
                self.charge(data.len() * 4)?;
                self.scalar(&dtype, &data)?
            }
            (NumPy::Scalar, &[dtype]) => {
                let dtype = self.numpy_type(dtype, 0)?;
                let zeros = vec![0; dtype.size.min(1 << 16)];
                self.charge(zeros.len())?;
                self.scalar(&dtype, &zeros)?
            }
            (NumPy::Reconstruct, &[class, ..]) => {
                let &Node::Global(Global::NumPy(NumPy::Array(class))) = self.node(class) else {
                    return odd("an array of an unknown class");
                };
                let Some(state) = called.state else { return odd("an array without content") };
                let &[_, shape, dtype, fortran, data] = self.tuple(state)? else {
                    return odd("an array with an invalid state");
                };
                let order = if self.truth(fortran)? { 'F' } else { 'C' };
                self.array(class, shape, dtype, order, data, depth)?
            }
            (NumPy::FromBuffer, &[data, dtype, shape, order, ..]) => {
                let order = if self.text(order)? == "F" { 'F' } else { 'C' };
                self.array("ndarray", shape, dtype, order, data, depth)?
            }
            (NumPy::DType, _) => {
                let dtype = self.type_of(called, 0)?;
                let name = dtype.json.as_str().map_or(dtype.json.to_string(), str::to_owned);
                (Value::Str(name), Some(json!(["numpy.dtype", dtype.json])))
            }
            (_, args) => return odd(format_args!("{numpy:?} with {} arguments", args.len())),
        };
        if let Some(tag) = tag {
            self.note(Some(id), tag)?;
        }
        Ok(value)
    }

    /// A class or function of NumPy as a value.
    pub(super) fn numpy_class(&mut self, numpy: NumPy) -> Result<Value> {
        match numpy {
            NumPy::Class(name) => {
                self.note(None, json!(["numpy.type"]))?;
                Ok(Value::from(name))
            }
            _ => odd(format_args!("{numpy:?} as a value")),
        }
    }

    fn truth(&self, id: Id) -> Result<bool> {
        match self.node(id) {
            Node::Bool(value) => Ok(*value),
            other => Ok(!matches!(other, Node::Int(0) | Node::None)),
        }
    }

    /// Bytes, in any form in which they are written.
    fn raw(&self, id: Id) -> Result<&[u8]> {
        match self.node(id) {
            Node::Bytes(bytes) | Node::ByteArray(bytes) => Ok(bytes),
            // A string of Python 2.
            Node::Str(text) => Ok(text.as_bytes()),
            Node::Called(called) if matches!(called.global, Global::ByteArray | Global::Bytes) => {
                match self.tuple(called.args)? {
                    [] => Ok(&[]),
                    &[bytes] if matches!(self.node(bytes), Node::Bytes(_)) => self.raw(bytes),
                    _ => odd("bytes built from something else"),
                }
            }
            other => odd(format_args!("a {} instead of bytes", other.type_name())),
        }
    }

    /// As [`Builder::raw`]; protocol 2 writes bytes as text to be encoded, and those are new.
    fn bytes(&mut self, id: Id) -> Result<Vec<u8>> {
        if let Node::Called(called) = self.node(id)
            && let (Global::Encode | Global::ByteArray, &[text, encoding]) =
                (called.global, self.tuple(called.args)?)
            && self.is_latin1(encoding)
        {
            return self.latin1(text);
        }
        let bytes = self.raw(id)?.to_vec();
        self.charge(bytes.len())?;
        Ok(bytes)
    }

    /// The type that `numpy.dtype(…)` makes.
    fn numpy_type(&self, id: Id, depth: usize) -> Result<Type> {
        match self.node(id) {
            Node::Called(called) if called.global == Global::NumPy(NumPy::DType) => {
                self.type_of(called, depth)
            }
            other => odd(format_args!("a {} instead of a dtype", other.type_name())),
        }
    }

    fn type_of(&self, called: &Called, depth: usize) -> Result<Type> {
        if depth > MAX_FIELDS_DEPTH {
            return odd("a dtype nested too deeply");
        }
        let Some(&name) = self.tuple(called.args)?.first() else {
            return odd("a dtype without a name");
        };
        let (name, is_record) = match self.node(name) {
            Node::Str(name) => (&**name, false),
            Node::Bytes(name) => (std::str::from_utf8(name).unwrap_or_default(), false),
            Node::Global(Global::NumPy(NumPy::Class("record"))) => ("V", true),
            other => return odd(format_args!("a dtype named by a {}", other.type_name())),
        };
        let (kind, digits) = match name.as_bytes() {
            [kind, digits @ ..] if digits.iter().all(u8::is_ascii_digit) => (*kind, digits.len()),
            _ => return odd(format_args!("the dtype `{}`", crate::error::shown(name))),
        };
        let count: usize = match &name[name.len() - digits..] {
            "" => 0,
            digits => digits.parse().or_else(|_| odd("a dtype that is too long"))?,
        };
        let state = match called.state {
            Some(state) => self.tuple(state)?,
            None => &[],
        };
        let order = match state.get(1).map(|order| self.node(*order)) {
            Some(Node::Str(order)) => order.chars().next(),
            Some(Node::Bytes(order)) => order.first().map(|&byte| byte.into()),
            _ => None,
        };
        let size = match kind {
            b'U' => count.checked_mul(4),
            b'M' | b'm' => Some(8),
            _ => Some(count),
        };
        let Some(size) = size else { return odd("a dtype that is too long") };
        let order = match order {
            Some(order @ ('<' | '>' | '|')) => order,
            _ if size > 1 && b"iufcMmU".contains(&kind) => '<',
            _ => '|',
        };
        let mut made = Type {
            kind,
            size,
            is_big_endian: order == '>',
            json: Json::from(format!("{order}{name}")),
        };
        match kind {
            b'b' | b'i' | b'u' | b'f' | b'c' | b'S' | b'U' | b'O' => {}
            b'M' | b'm' => {
                made.json = format!("{order}{}8{}", kind as char, self.unit(state)?).into()
            }
            b'V' => self.structure(&mut made, state, is_record, depth)?,
            _ => return odd(format_args!("the dtype `{}`", crate::error::shown(name))),
        }
        Ok(made)
    }

    /// The unit of times, such as `[ns]`: the second of the metadata of a dtype.
    fn unit(&self, state: &[Id]) -> Result<String> {
        let Some(&metadata) = state.get(8) else { return Ok(String::new()) };
        let unit = match self.node(metadata) {
            Node::Tuple(parts) => parts.iter().find_map(|&part| match self.node(part) {
                Node::Tuple(unit) => Some(&**unit),
                _ => None,
            }),
            _ => None,
        };
        let Some(&[name, count, ..]) = unit else { return odd("a time without a unit") };
        let name = match self.node(name) {
            Node::Str(name) => name.to_string(),
            Node::Called(called) => match self.tuple(called.args)? {
                &[text, _] => self.text(text)?.to_owned(),
                _ => return odd("a time with an invalid unit"),
            },
            _ => String::from_utf8(self.raw(name)?.to_vec()).unwrap_or_default(),
        };
        Ok(match (name.as_str(), self.int(count)?) {
            ("generic", _) => String::new(),
            (name, 1) => format!("[{name}]"),
            (name, count) => format!("[{count}{name}]"),
        })
    }

    /// A type of several fields, of an inner array, or of bytes without a meaning.
    fn structure(
        &self,
        made: &mut Type,
        state: &[Id],
        is_record: bool,
        depth: usize,
    ) -> Result<()> {
        let &[_, _, inner, names, fields, itemsize, _, flags, ..] = state else {
            return odd("a structure without fields");
        };
        let size = usize::try_from(self.int(itemsize)?);
        made.size = size.or_else(|_| odd("a structure of negative size"))?;
        if !matches!(self.node(inner), Node::None) {
            let &[base, shape] = self.tuple(inner)? else { return odd("an invalid subarray") };
            let shape = match self.node(shape) {
                Node::Int(len) => vec![*len],
                _ => {
                    let shape = self.tuple(shape)?;
                    shape.iter().map(|&len| self.int(len)).collect::<Result<_>>()?
                }
            };
            let base = self.numpy_type(base, depth + 1)?;
            if base.kind == b'O' {
                made.kind = b'O';
            }
            made.json = json!({ "base": base.json, "shape": shape });
            return Ok(());
        }
        if matches!(self.node(names), Node::None) {
            made.json = format!("|V{}", made.size).into();
            return Ok(());
        }
        let (names, Node::Dict(fields)) = (self.tuple(names)?, self.node(fields)) else {
            return odd("a structure with invalid fields");
        };
        let mut parts = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for &name in names {
            let name = self.text(name)?;
            let field =
                fields.entries.iter().find(|(key, _)| self.text(*key).is_ok_and(|key| key == name));
            let Some((_, field)) = field else { return odd("a field without a type") };
            let (&[dtype, offset] | &[dtype, offset, _]) = self.tuple(*field)? else {
                return odd("a field without a type");
            };
            let title = match self.tuple(*field)?.get(2) {
                Some(&title) => Json::from(self.text(title)?),
                None => Json::Null,
            };
            let dtype = self.numpy_type(dtype, depth + 1)?;
            if dtype.kind == b'O' {
                made.kind = b'O';
            }
            let row = [name.into(), dtype.json, self.int(offset)?.into(), title];
            parts.iter_mut().zip(row).for_each(|(part, value)| part.push(value));
        }
        let [names, formats, offsets, titles] = parts;
        made.json = json!({
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "titles": titles,
            "itemsize": made.size,
            "aligned": self.int(flags).unwrap_or_default() & 0x80 != 0,
            "record": is_record,
        });
        Ok(())
    }

    fn array(
        &mut self,
        class: &'static str,
        shape: Id,
        dtype: Id,
        order: char,
        data: Id,
        depth: usize,
    ) -> Result<(Value, Option<Json>)> {
        let dtype = self.numpy_type(dtype, 0)?;
        let shape = match self.node(shape) {
            Node::Int(_) => vec![self.index(shape)?],
            _ => self.indices(shape)?,
        };
        let kind = format!("numpy.{class}");
        if dtype.kind == b'O' {
            return self.objects(kind, data, depth);
        }
        let data = self.bytes(data)?;
        let count = shape.iter().try_fold(1_usize, |count, &len| count.checked_mul(len));
        if count.and_then(|count| count.checked_mul(dtype.size)) != Some(data.len()) {
            return odd(format_args!(
                "{} bytes for an array of shape {shape:?} and elements of {} bytes",
                data.len(),
                dtype.size
            ));
        }
        let strides = strides(&shape, order);
        match dtype.number() {
            Some(number) => {
                let tensor = tensor(number, shape, strides, dtype.native(data))?;
                Ok((tensor, Some(json!([kind, dtype.json]))))
            }
            None => {
                let tag = json!([kind, dtype.json, shape, order.to_string()]);
                Ok((tensor(DType::UInt8, vec![data.len()], vec![1], data)?, Some(tag)))
            }
        }
    }

    /// An array of Python objects, which has no plain form that could be turned back into an array.
    fn objects(&mut self, class: String, data: Id, depth: usize) -> Result<(Value, Option<Json>)> {
        if !self.stands_in() {
            return odd("an array of Python objects");
        }
        let Node::List(items) = self.node(data).clone() else {
            return odd("an array of objects without a list of them");
        };
        let mut entries = Vec::new();
        for (i, &item) in items.iter().enumerate() {
            let item = self.without_notes(|builder| builder.value(item, depth + 1))?;
            entries.push((Value::Int(i as i64), item));
        }
        let content = Dict { entries, ..Dict::new() };
        let class = format!("{class} of objects");
        Ok((Value::Object(Box::new(Object { class, content })), None))
    }

    fn scalar(&self, dtype: &Type, data: &[u8]) -> Result<(Value, Option<Json>)> {
        let data = match dtype.kind {
            b'S' | b'U' => data,
            _ if data.len() == dtype.size => data,
            _ => return odd(format_args!("{} bytes for {}", data.len(), dtype.json)),
        };
        let mut tag = vec![json!("numpy.scalar"), dtype.json.clone()];
        let native = dtype.native(data.to_vec());
        let float = |bytes: &[u8]| -> Option<f64> {
            Some(match *bytes {
                [a, b] => half(u16::from_le_bytes([a, b])),
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
                _ => match <[u8; 8]>::try_from(bytes) {
                    Ok(bytes) => f64::from_le_bytes(bytes),
                    Err(_) => extended(bytes)?,
                },
            })
        };
        let value = match (dtype.kind, dtype.size) {
            (b'b', 1) => Value::Bool(native != [0]),
            (b'i' | b'M' | b'm', 1..=8) => integer(BigInt::from_signed_bytes_le(&native)),
            (b'u', 1..=8) => integer(BigInt::from_bytes_le(num_bigint::Sign::Plus, &native)),
            (b'f', size) => match float(&native) {
                Some(value) => {
                    if size > 8 {
                        tag.push(hex(&native));
                    }
                    Value::Float(value)
                }
                None => return odd(format_args!("a number of {size} bytes")),
            },
            (b'c', size) => match (float(&native[..size / 2]), float(&native[size / 2..])) {
                (Some(re), Some(im)) => {
                    if size > 16 {
                        tag.push(hex(&native));
                    }
                    Value::Complex(re, im)
                }
                _ => return odd(format_args!("a number of {size} bytes")),
            },
            (b'U', _) => {
                let (points, odd_bytes) = data.as_chunks::<4>();
                let decode = |point: &[u8; 4]| {
                    char::from_u32(match dtype.is_big_endian {
                        true => u32::from_be_bytes(*point),
                        false => u32::from_le_bytes(*point),
                    })
                };
                let text = points.iter().map(decode).collect::<Option<String>>();
                match text.filter(|_| odd_bytes.is_empty()) {
                    Some(text) => Value::from(text.trim_end_matches('\0')),
                    None => return odd("text that is not Unicode"),
                }
            }
            (b'S', _) => {
                let len = data.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                Value::Bytes(data[..len].to_vec())
            }
            _ => Value::Bytes(data.to_vec()),
        };
        Ok((value, Some(Json::from(tag))))
    }
}

impl Type {
    /// The element type of a tensor with these numbers; times are counted in 64 bits.
    fn number(&self) -> Option<DType> {
        Some(match (self.kind, self.size) {
            (b'b', 1) => DType::Bool,
            (b'i', 1) => DType::Int8,
            (b'i', 2) => DType::Int16,
            (b'i', 4) => DType::Int32,
            (b'i' | b'M' | b'm', 8) => DType::Int64,
            (b'u', 1) => DType::UInt8,
            (b'u', 2) => DType::UInt16,
            (b'u', 4) => DType::UInt32,
            (b'u', 8) => DType::UInt64,
            (b'f', 2) => DType::Float16,
            (b'f', 4) => DType::Float32,
            (b'f', 8) => DType::Float64,
            (b'c', 8) => DType::Complex64,
            (b'c', 16) => DType::Complex128,
            _ => return None,
        })
    }

    /// The bytes of elements as this machine has them, if they are numbers.
    fn native(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let width = match self.kind {
            b'i' | b'u' | b'f' | b'M' | b'm' => self.size,
            b'c' => self.size / 2,
            b'b' => {
                // To PyTorch any other byte is neither true nor false.
                bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
                return bytes;
            }
            _ => return bytes,
        };
        if self.is_big_endian && width > 1 {
            bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        bytes
    }
}

fn strides(shape: &[usize], order: char) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut step = 1_usize;
    let dimensions: Box<dyn Iterator<Item = usize>> = match order {
        'F' => Box::new(0..shape.len()),
        _ => Box::new((0..shape.len()).rev()),
    };
    for i in dimensions {
        strides[i] = step;
        step = step.saturating_mul(shape[i].max(1));
    }
    strides
}

fn tensor(dtype: DType, shape: Vec<usize>, strides: Vec<usize>, data: Vec<u8>) -> Result<Value> {
    let storage = Storage::from_vec(data);
    match Tensor::new(dtype, shape, strides, 0, storage) {
        Ok(tensor) => Ok(Value::Tensor(tensor)),
        Err(error) => odd(error),
    }
}

fn integer(int: BigInt) -> Value {
    value::BigInt(int).into_value()
}

fn hex(bytes: &[u8]) -> Json {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// A number of 16 bits.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (bits >> 10 & 0x1f, f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1024.0 + fraction) * 2_f64.powi(i32::from(exponent) - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// The nearest double of a number of the x87, of 10 bytes in 12 or 16.
fn extended(bytes: &[u8]) -> Option<f64> {
    let (Some(fraction), 12 | 16) = (bytes.first_chunk::<8>(), bytes.len()) else { return None };
    let fraction = u64::from_le_bytes(*fraction);
    let head = u16::from_le_bytes([bytes[8], bytes[9]]);
    let exponent = i32::from(head & 0x7fff);
    let magnitude = match exponent {
        0x7fff if fraction << 1 == 0 => f64::INFINITY,
        0x7fff => f64::NAN,
        // In two steps, as the smallest numbers need.
        _ => fraction as f64 * 2_f64.powi(-63) * 2_f64.powi((exponent - 16383).clamp(-1100, 1100)),
    };
    Some(if head >> 15 == 1 { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_floats_are_the_numbers_they_stand_for() {
        assert_eq!(
            [0x3c00, 0xc000, 1, 0x7c00].map(half),
            [1.0, -2.0, 2_f64.powi(-24), f64::INFINITY]
        );
        assert!(half(0x7c01).is_nan());
        let long = |fraction: u64, head: u16| {
            extended(&[&fraction.to_le_bytes()[..], &head.to_le_bytes(), &[0; 6]].concat())
        };
        assert_eq!(long(1 << 63, 0x3fff), Some(1.0));
        assert_eq!(long(3 << 62, 0xc000), Some(-3.0));
        assert_eq!(long(1 << 63, 0x7fff), Some(f64::INFINITY));
        assert_eq!((long(0, 0), extended(&[0; 10])), (Some(0.0), None));
    }

    #[test]
    fn strides_follow_the_order_of_memory() {
        assert_eq!(strides(&[2, 3, 4], 'C'), [12, 4, 1]);
        assert_eq!(strides(&[2, 3, 4], 'F'), [1, 2, 6]);
    }
}
