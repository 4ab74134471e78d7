//! Which keys of a dict, and which elements of a set, Python holds for equal.

use crate::value::Value;

/// What Python compares a key by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// Keys with equal bytes are equal.
    Equal(Vec<u8>),
    /// It equals nothing but itself, such as a tensor.
    Unique,
    /// It cannot be a key, since it could be changed.
    Mutable,
}

impl Identity {
    /// The identity of a value.
    pub(super) fn of(value: &Value) -> Self {
        let mut bytes = Vec::new();
        match encode(value, &mut bytes) {
            Ok(()) => Self::Equal(bytes),
            Err(other) => other,
        }
    }
}

/// Appends a kind, the length of what follows, and that, so that nothing reads like another thing.
fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), Identity> {
    let mut put = |kind: u8, content: &[u8]| {
        out.push(kind);
        out.extend((content.len() as u64).to_le_bytes());
        out.extend(content);
        Ok(())
    };
    match value {
        Value::None => put(b'N', &[]),
        // Python holds 1, 1.0, True and 1+0j for one key.
        Value::Bool(v) => put(b'i', &i64::from(*v).to_le_bytes()),
        Value::Int(v) => put(b'i', &v.to_le_bytes()),
        Value::BigInt(v) => put(b'I', &v.to_signed_bytes_le()),
        Value::Float(v) | Value::Complex(v, 0.0) => match v {
            v if v.is_nan() => Err(Identity::Unique),
            v if v.fract() == 0.0 && v.abs() < i64::MAX as f64 => {
                put(b'i', &(*v as i64).to_le_bytes())
            }
            v => put(b'f', &v.to_bits().to_le_bytes()),
        },
        Value::Complex(re, im) if re.is_nan() || im.is_nan() => Err(Identity::Unique),
        Value::Complex(re, im) => {
            // Adding zero makes a negative zero positive, which it is equal to.
            put(b'c', &[(re + 0.0).to_le_bytes(), (im + 0.0).to_le_bytes()].concat())
        }
        Value::Str(v) => put(b's', v.as_bytes()),
        Value::Wtf8(v) => put(b'w', v),
        Value::Bytes(v) => put(b'b', v),
        Value::DType(v) => put(b'd', v.name().as_bytes()),
        Value::Device(v) => put(b'D', v.as_bytes()),
        Value::Layout(v) => put(b'l', v.as_bytes()),
        Value::QScheme(v) => put(b'q', v.as_bytes()),
        Value::Tuple(items) => {
            put(b't', &(items.len() as u64).to_le_bytes())?;
            items.iter().try_for_each(|item| encode(item, out))
        }
        // `torch.Size` is a tuple of integers.
        Value::Size(dims) => {
            put(b't', &(dims.len() as u64).to_le_bytes())?;
            dims.iter().try_for_each(|&dim| encode(&Value::Int(dim), out))
        }
        Value::Tensor(_) | Value::Storage(..) | Value::Call(_) => Err(Identity::Unique),
        Value::List(_) | Value::Dict(_) | Value::Set(_) | Value::ByteArray(_) => {
            Err(Identity::Mutable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_where_python_says_so() {
        let same = |a: Value, b: Value| assert_eq!(Identity::of(&a), Identity::of(&b));
        let differ = |a: Value, b: Value| assert_ne!(Identity::of(&a), Identity::of(&b));
        same(Value::Int(1), Value::Bool(true));
        same(Value::Int(1), Value::Float(1.0));
        same(Value::Int(1), Value::Complex(1.0, 0.0));
        same(Value::Float(-0.0), Value::Int(0));
        same(Value::Size(vec![1, 0]), Value::Tuple(vec![Value::Int(1), Value::Bool(false)]));
        differ(Value::Str("1".into()), Value::Int(1));
        differ(Value::Str("a".into()), Value::Bytes(b"a".to_vec()));
        differ(Value::Float(0.5), Value::Int(0));
        let nested = |parts: &[&str]| {
            Value::Tuple(parts.iter().map(|&part| Value::Str(part.into())).collect())
        };
        differ(nested(&["ab", "c"]), nested(&["a", "bc"]));
        let list = Value::Tuple(vec![Value::List(vec![])]);
        assert_eq!(Identity::of(&list), Identity::Mutable);
        assert_eq!(Identity::of(&Value::Float(f64::NAN)), Identity::Unique);
    }
}
