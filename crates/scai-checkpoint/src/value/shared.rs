//! Values that several parts of a tree refer to, and equality of trees with such values.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::{Call, Dict, Value};

/// A value that several parts of a tree refer to: one object, not merely equal ones.
///
/// Cloning it makes another reference to the same value. It is written once to a `.pt` file and
/// comes back in Python as one object.
#[derive(Clone)]
pub struct Shared(Arc<Value>);

impl Shared {
    /// The value.
    pub fn get(&self) -> &Value {
        &self.0
    }

    /// A number that is the same for clones of this and no other shared value that exists
    /// meanwhile.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// How many references to the value exist, in this tree or in others.
    pub fn references(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn into_value(self) -> Value {
        Arc::try_unwrap(self.0).unwrap_or_else(|shared| Value::clone(&shared))
    }
}

impl Value {
    /// The same value as one object: clones of the result are further references to it.
    #[must_use]
    pub fn share(self) -> Value {
        match self {
            Value::Shared(_) => self,
            value => Value::Shared(Shared(Arc::new(value))),
        }
    }

    /// The value itself, whether or not it is shared. Code that matches on variants matches on this.
    pub fn resolved(&self) -> &Value {
        match self {
            Value::Shared(shared) => shared.get(),
            value => value,
        }
    }

    /// As [`Value::resolved`], taking the value out of the tree; what other parts refer to as well
    /// is copied.
    #[must_use]
    pub fn into_resolved(self) -> Value {
        match self {
            Value::Shared(shared) => shared.into_value(),
            value => value,
        }
    }

    /// The value itself, to be changed. What other parts of the tree refer to as well is copied
    /// first, so that only this one changes.
    pub fn resolved_mut(&mut self) -> &mut Value {
        match self {
            Value::Shared(shared) => Arc::make_mut(&mut shared.0),
            value => value,
        }
    }

    /// Which object it is, if it is a shared one ([`Shared::id`]).
    pub fn shared_id(&self) -> Option<usize> {
        match self {
            Value::Shared(shared) => Some(shared.id()),
            _ => None,
        }
    }

    /// Shared values with a single reference become plain again.
    pub fn unshare_single(&mut self) {
        if let Value::Shared(shared) = self {
            // What is below a value with several references cannot be changed.
            let Some(value) = Arc::get_mut(&mut shared.0) else { return };
            *self = std::mem::replace(value, Value::None);
        }
        let each = |items: &mut Vec<Value>| items.iter_mut().for_each(Value::unshare_single);
        match self {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => each(items),
            Value::Dict(dict) => dict.unshare_single(),
            Value::Call(call) => {
                each(&mut call.args);
                call.state.iter_mut().for_each(Value::unshare_single);
            }
            Value::Object(object) => object.content.unshare_single(),
            _ => {}
        }
    }
}

impl Dict {
    fn unshare_single(&mut self) {
        for (key, value) in &mut self.entries {
            key.unshare_single();
            value.unshare_single();
        }
        self.attributes.iter_mut().for_each(|attributes| attributes.unshare_single());
    }
}

/// A shared container is named and not written out: what is shared at every level occurs too often
/// to print.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            value @ (Value::List(_)
            | Value::Tuple(_)
            | Value::Set(_)
            | Value::Dict(_)
            | Value::Call(_)
            | Value::Object(_)) => write!(f, "Shared({})", value.type_name()),
            value => value.fmt(f),
        }
    }
}

/// Equality of values: containers by class, order and content, floats by their bits, tensors by
/// type, shape, strides, attributes and elements. Whether a value is shared makes no difference.
///
/// A tensor whose bytes cannot be read is not equal to anything.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        Comparison::default().values(self, other)
    }
}

impl PartialEq for Dict {
    fn eq(&self, other: &Self) -> bool {
        Comparison::default().dicts(self, other)
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Comparison::default().values(self.get(), other.get())
    }
}

/// One comparison of two trees.
#[derive(Default)]
struct Comparison {
    /// Pairs of values that were compared, of which one is shared: nothing is compared once per
    /// path that leads to it. All of them were equal, or the comparison would have ended.
    compared: HashSet<(usize, usize)>,
}

impl Comparison {
    fn values(&mut self, a: &Value, b: &Value) -> bool {
        use Value::*;
        if matches!(a, Shared(_)) || matches!(b, Shared(_)) {
            let (a, b) = (a.resolved(), b.resolved());
            let pair = (std::ptr::from_ref(a).addr(), std::ptr::from_ref(b).addr());
            return !self.compared.insert(pair) || self.values(a, b);
        }
        match (a, b) {
            (None, None) => true,
            (Bool(a), Bool(b)) => a == b,
            (Int(a), Int(b)) => a == b,
            (BigInt(a), BigInt(b)) => a == b,
            (Float(a), Float(b)) => a.to_bits() == b.to_bits(),
            (Complex(a, b), Complex(c, d)) => {
                a.to_bits() == c.to_bits() && b.to_bits() == d.to_bits()
            }
            (Str(a), Str(b))
            | (Device(a), Device(b))
            | (Layout(a), Layout(b))
            | (QScheme(a), QScheme(b)) => a == b,
            (Wtf8(a), Wtf8(b)) | (Bytes(a), Bytes(b)) | (ByteArray(a), ByteArray(b)) => a == b,
            (List(a), List(b)) | (Tuple(a), Tuple(b)) | (Set(a), Set(b)) => self.items(a, b),
            (Dict(a), Dict(b)) => self.dicts(a, b),
            (Tensor(a), Tensor(b)) => a == b,
            (Storage(a, s), Storage(b, t)) => s == t && super::same_bytes(a, b),
            (Size(a), Size(b)) => a == b,
            (DType(a), DType(b)) => a == b,
            (Call(a), Call(b)) => self.calls(a, b),
            (Object(a), Object(b)) => a.class == b.class && self.dicts(&a.content, &b.content),
            _ => false,
        }
    }

    fn items(&mut self, a: &[Value], b: &[Value]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.values(a, b))
    }

    fn dicts(&mut self, a: &Dict, b: &Dict) -> bool {
        let entries = a.entries.iter().zip(&b.entries);
        a.kind == b.kind
            && a.entries.len() == b.entries.len()
            && entries.into_iter().all(|(a, b)| self.values(&a.0, &b.0) && self.values(&a.1, &b.1))
            && match (&a.attributes, &b.attributes) {
                (Some(a), Some(b)) => self.dicts(a, b),
                (None, None) => true,
                _ => false,
            }
    }

    fn calls(&mut self, a: &Call, b: &Call) -> bool {
        a.global == b.global
            && self.items(&a.args, &b.args)
            && match (&a.state, &b.state) {
                (Some(a), Some(b)) => self.values(a, b),
                (None, None) => true,
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nested lists, each with two references to the next, the innermost to one string; each level
    /// is one object.
    fn doubled(levels: usize) -> Value {
        (0..levels).fold(Value::from("leaf").share(), |value, _| {
            Value::List(vec![value.clone(), value]).share()
        })
    }

    #[test]
    fn what_is_shared_at_sixty_levels_is_compared_printed_visited_and_mapped_once_a_level() {
        let (a, b) = (doubled(60), doubled(60));
        assert_eq!(a, b);
        assert_ne!(a, doubled(61));
        assert!(format!("{a:?}{:?}", a.resolved()).len() < 200);
        let mut visited = 0;
        a.visit(&mut |_, _| visited += 1);
        assert!(visited < 200, "{visited}");
        assert_eq!(a.clone().resident(1).unwrap(), b);
        assert!(a.storages().is_empty() && a.tensors().is_empty());
    }

    #[test]
    fn a_shared_value_equals_its_copy_and_is_changed_in_one_place_only() {
        let shared = Value::from(vec![Value::Int(1)]).share();
        let copy = Value::from(vec![Value::Int(1)]);
        assert_eq!(shared, copy);
        let mut one = shared.clone();
        *one.resolved_mut() = Value::None;
        assert_eq!(shared, copy);
    }

    #[test]
    fn what_one_place_refers_to_becomes_plain() {
        let twice = Value::from("a").share();
        let mut list = Value::from(vec![twice.clone(), twice, Value::Int(1).share()]).share();
        list.unshare_single();
        let Value::List(items) = list else { panic!("a list") };
        let shared: Vec<bool> = items.iter().map(|item| item.shared_id().is_some()).collect();
        assert_eq!(shared, [true, true, false]);
    }
}
