//! Which keys of a dict, and which elements of a set, Python considers equal.

use std::hash::{BuildHasher, RandomState};

use num_bigint::BigInt;
use rustc_hash::{FxHashMap, FxHashSet};
use twox_hash::XxHash3_128;

use crate::value::Value;

/// What Python compares a key by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// Keys with this digest are equal.
    Equal(u128),
    /// It equals only itself, such as a tensor.
    Unique,
    /// It cannot be a key, since it could be changed.
    Mutable,
}

/// Finds the identities of keys, by digests with a seed that cannot be known beforehand.
#[derive(Debug)]
pub(super) struct Identities {
    seed: u64,
    /// Those of shared values, which may be parts of very many keys.
    shared: FxHashMap<usize, Identity>,
}

impl Identities {
    pub(super) fn new() -> Self {
        Self { seed: RandomState::new().hash_one(0), shared: FxHashMap::default() }
    }

    /// The identity of a value. Shared values must live as long as this.
    pub(super) fn of(&mut self, value: &Value) -> Identity {
        let equal = |kind: u8, content: &[u8]| self.digest(kind, content);
        match value {
            Value::Shared(shared) => match self.shared.get(&shared.id()) {
                Some(&identity) => identity,
                None => {
                    let identity = self.of(shared.get());
                    self.shared.insert(shared.id(), identity);
                    identity
                }
            },
            Value::None => equal(b'N', &[]),
            // Python considers 1, 1.0, True and 1+0j one key.
            Value::Bool(v) => equal(b'i', &i64::from(*v).to_le_bytes()),
            Value::Int(v) => equal(b'i', &v.to_le_bytes()),
            Value::BigInt(v) => equal(b'I', &v.to_signed_bytes_le()),
            Value::Float(v) | Value::Complex(v, 0.0) => match v {
                v if v.is_nan() => Identity::Unique,
                v if v.fract() == 0.0 && v.abs() < i64::MAX as f64 => {
                    equal(b'i', &(*v as i64).to_le_bytes())
                }
                v if v.fract() == 0.0 && v.is_finite() => {
                    let int = whole(*v);
                    match i64::try_from(&int) {
                        Ok(int) => equal(b'i', &int.to_le_bytes()),
                        Err(_) => equal(b'I', &int.to_signed_bytes_le()),
                    }
                }
                v => equal(b'f', &v.to_bits().to_le_bytes()),
            },
            Value::Complex(re, im) if re.is_nan() || im.is_nan() => Identity::Unique,
            Value::Complex(re, im) => {
                // Adding zero makes a negative zero positive, which it is equal to.
                equal(b'c', &[(re + 0.0).to_le_bytes(), (im + 0.0).to_le_bytes()].concat())
            }
            Value::Str(v) => equal(b's', v.as_bytes()),
            Value::Wtf8(v) => equal(b'w', v),
            Value::Bytes(v) => equal(b'b', v),
            Value::DType(v) => equal(b'd', v.name().as_bytes()),
            Value::Device(v) => equal(b'D', v.as_bytes()),
            Value::Layout(v) => equal(b'l', v.as_bytes()),
            Value::QScheme(v) => equal(b'q', v.as_bytes()),
            Value::Tuple(items) => {
                let mut parts = Vec::with_capacity(items.len() * size_of::<u128>());
                let mut unique = false;
                for item in items {
                    match self.of(item) {
                        Identity::Equal(digest) => parts.extend(digest.to_le_bytes()),
                        Identity::Unique => unique = true,
                        Identity::Mutable => return Identity::Mutable,
                    }
                }
                if unique { Identity::Unique } else { self.digest(b't', &parts) }
            }
            // `torch.Size` is a tuple of integers.
            Value::Size(dims) => {
                let dims = dims.iter().map(|&dim| Value::Int(dim));
                self.of(&Value::Tuple(dims.collect()))
            }
            Value::Tensor(_) | Value::Storage(..) | Value::Call(_) | Value::Object(_) => {
                Identity::Unique
            }
            Value::List(_) | Value::Dict(_) | Value::Set(_) | Value::ByteArray(_) => {
                Identity::Mutable
            }
        }
    }

    fn digest(&self, kind: u8, content: &[u8]) -> Identity {
        // A kind is one byte of the seed, so that values of different kinds differ.
        let seed = self.seed ^ u64::from(kind);
        Identity::Equal(XxHash3_128::oneshot_with_seed(seed, content))
    }
}

/// The first key that Python considers equal to one before it.
pub(in super::super) fn repeated(entries: &[(Value, Value)]) -> Option<&Value> {
    let mut identities = Identities::new();
    let mut seen = FxHashSet::default();
    let mut is_repeated = |key: &Value| match identities.of(key) {
        Identity::Equal(digest) => !seen.insert(digest),
        Identity::Unique | Identity::Mutable => false,
    };
    entries.iter().map(|(key, _)| key).find(|key| is_repeated(key))
}

/// A whole number of more than 64 bits.
fn whole(float: f64) -> BigInt {
    let bits = float.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as usize;
    let mantissa = BigInt::from(bits & ((1 << 52) - 1) | 1 << 52) << exponent.saturating_sub(1075);
    if float < 0.0 { -mantissa } else { mantissa }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_where_python_says_so() {
        let mut identities = Identities::new();
        let mut equal = |a: Value, b: Value| identities.of(&a) == identities.of(&b);
        assert!(equal(Value::Int(1), Value::Bool(true)));
        assert!(equal(Value::Int(1), Value::Float(1.0)));
        assert!(equal(Value::Int(1), Value::Complex(1.0, 0.0)));
        assert!(equal(Value::Float(-0.0), Value::Int(0)));
        assert!(equal(Value::Int(i64::MIN), Value::Float(-(2_f64.powi(63)))));
        assert!(equal(
            Value::BigInt(crate::value::BigInt(BigInt::from(3) << 70)),
            Value::Float(3.0 * 2_f64.powi(70))
        ));
        let tuple = Value::Tuple(vec![Value::Int(1), Value::Bool(false)]);
        assert!(equal(Value::Size(vec![1, 0]), tuple.clone()));
        assert!(equal(tuple.clone().share(), tuple));
        assert!(!equal(Value::Str("1".into()), Value::Int(1)));
        assert!(!equal(Value::Str("a".into()), Value::Bytes(b"a".to_vec())));
        assert!(!equal(Value::Float(0.5), Value::Int(0)));
        let nested = |parts: &[&str]| {
            Value::Tuple(parts.iter().map(|&part| Value::Str(part.into())).collect())
        };
        assert!(!equal(nested(&["ab", "c"]), nested(&["a", "bc"])));
        let list = Value::Tuple(vec![Value::List(vec![])]);
        assert_eq!(identities.of(&list), Identity::Mutable);
        assert_eq!(identities.of(&Value::Float(f64::NAN)), Identity::Unique);
    }
}
