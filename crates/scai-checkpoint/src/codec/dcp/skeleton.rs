//! A state as it was before its tensors became items: the item [`TREE`].
//!
//! The names of DCP's items lose what a state tree has: the types of keys, empty mappings, tuples, and the
//! numbers of an optimizer's parameters. So scai keeps the tree itself in one item, a `.pt` file as any other,
//! with a tensor on the meta device in the place of each tensor that is an item of its own, and under [`KEYS`]
//! the names of these items in the order of the tree.

use crate::error::{Error, Place, Result};
use crate::value::{Call, Dict, Value};

/// The name of the item.
pub(super) const TREE: &str = "scai.tree";
/// The field with the names of the items, the last one.
const KEYS: &str = "scai.keys";
/// What makes a tensor on the meta device.
const META: &str = "torch._utils._rebuild_meta_tensor_no_storage";

/// The tree with the tensors in their places.
pub(super) fn filled(tree: Value, tensor: &mut dyn FnMut(&str) -> Result<Value>) -> Result<Value> {
    let damaged = |what: &str| Error::damaged(Place::default(), format!("`{TREE}` {what}"));
    let Value::Dict(mut tree) = tree.into_resolved() else {
        return Err(damaged("is no mapping"));
    };
    let keys = match tree.entries.pop() {
        Some((key, keys)) if key.as_str() == Some(KEYS) => keys.into_resolved(),
        _ => return Err(damaged("does not name its tensors")),
    };
    let Value::List(keys) = keys else {
        return Err(damaged("does not name its tensors"));
    };
    let mut keys = keys.iter();
    let mut next = || {
        let key = keys.next().map(Value::resolved).and_then(Value::as_str);
        tensor(key.ok_or_else(|| damaged("names fewer tensors than it has"))?)
    };
    let filled = dict(tree, &mut next)?;
    if keys.next().is_some() {
        return Err(damaged("names more tensors than it has"));
    }
    Ok(Value::Dict(filled))
}

type Next<'a> = dyn FnMut() -> Result<Value> + 'a;

fn value(of: Value, next: &mut Next<'_>) -> Result<Value> {
    Ok(match of.into_resolved() {
        Value::Call(call) if is_meta(&call) => next()?,
        Value::Dict(of) => Value::Dict(dict(of, next)?),
        Value::List(items) => {
            Value::List(items.into_iter().map(|item| value(item, next)).collect::<Result<_>>()?)
        }
        other => other,
    })
}

fn dict(mut of: Dict, next: &mut Next<'_>) -> Result<Dict> {
    for (_, each) in &mut of.entries {
        *each = value(std::mem::replace(each, Value::None), next)?;
    }
    Ok(of)
}

fn is_meta(call: &Call) -> bool {
    call.global == META
}
