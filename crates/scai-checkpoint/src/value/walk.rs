//! Finding and visiting parts of a state tree by path.
//!
//! A path joins keys and indices with dots: `optimizer_state_dict.state.0.exp_avg`. Keys may
//! contain dots (`backbone.conv1.weight`); a lookup takes any key that fits.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Dict, Value};
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::read_options::ReadOptions;
use crate::tensor::{Storage, Tensor, read_storages};

/// Joins a parent's path and a key.
pub fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

impl Value {
    /// How a key is written in a path.
    pub fn key_text(&self) -> String {
        let mut text = String::new();
        self.write_key(&mut text);
        text
    }

    /// Appends a key as it is written in a path.
    pub(crate) fn write_key(&self, text: &mut String) {
        match self.resolved() {
            Value::Str(key) => text.push_str(key),
            Value::Int(int) => text.push_str(&int.to_string()),
            Value::BigInt(int) => text.push_str(&int.to_string()),
            Value::Bool(true) => text.push_str("True"),
            Value::Bool(false) => text.push_str("False"),
            Value::None => text.push_str("None"),
            Value::Float(float) => text.push_str(&float.to_string()),
            Value::Tuple(items) => text.push_str(&tuple_text(items)),
            other => text.push_str(&format!("{other:?}")),
        }
    }

    /// The children with the part of the path that leads to them, in order.
    pub fn children(&self) -> Vec<(String, &Value)> {
        match self.resolved() {
            Value::Dict(dict) => dict.children(),
            Value::Object(object) => object.content.children(),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                items.iter().enumerate().map(|(i, item)| (i.to_string(), item)).collect()
            }
            Value::Call(call) => {
                let args = call.args.iter().enumerate().map(|(i, arg)| (i.to_string(), arg));
                let state = call.state.iter().map(|state| ("state".to_owned(), state));
                args.chain(state).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The value at `path`: keys and indices joined by dots, where a key may contain dots; the
    /// empty path is the value itself.
    pub fn lookup(&self, path: &str) -> Option<&Value> {
        if path.is_empty() {
            return Some(self);
        }
        // A key with dots may fit in more than one way, so every child is tried.
        self.children().into_iter().find_map(|(key, child)| {
            let rest = path.strip_prefix(&key)?;
            if rest.is_empty() { Some(child) } else { child.lookup(rest.strip_prefix('.')?) }
        })
    }

    /// Calls `visit` with every value of the tree and its path, parents first. A shared value is
    /// passed resolved, at each of its occurrences; what it holds is visited at the first.
    pub fn visit<'a>(&'a self, visit: &mut dyn FnMut(&str, &'a Value)) {
        fn go<'a>(
            value: &'a Value,
            path: &str,
            seen: &mut FxHashSet<usize>,
            visit: &mut dyn FnMut(&str, &'a Value),
        ) {
            visit(path, value.resolved());
            if value.shared_id().is_some_and(|id| !seen.insert(id)) {
                return;
            }
            for (key, child) in value.children() {
                go(child, &join(path, &key), seen, visit);
            }
        }
        go(self, "", &mut FxHashSet::default(), visit);
    }

    /// All tensors with their paths, in order.
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        let mut found = Vec::new();
        self.visit(&mut |path, value| {
            if let Value::Tensor(tensor) = value {
                found.push((path.to_owned(), tensor));
            }
        });
        found
    }

    /// All storages with the path of the value that holds them, each storage once, including those
    /// of tensors that are keys or attributes of a dict.
    pub fn storages(&self) -> Vec<(String, &Storage)> {
        let (mut seen, mut found) = (FxHashSet::default(), Vec::new());
        each_storage(self, Some(""), &mut FxHashSet::default(), &mut |path, storage| {
            if seen.insert(storage.id()) {
                found.push((path.unwrap_or_default().to_owned(), storage));
            }
        });
        found
    }

    /// Whether there is any storage in it.
    pub(crate) fn holds_storages(&self) -> bool {
        let mut any = false;
        each_storage(self, None, &mut FxHashSet::default(), &mut |_, _| any = true);
        any
    }

    /// The same tree with all bytes in memory and checked.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] naming the first tensor whose bytes are not those that were saved;
    /// [`crate::Error::Cancelled`].
    pub fn resident<'o>(mut self, options: impl Into<ReadOptions<'o>>) -> Result<Value> {
        let mut lazy: Vec<&Storage> = Vec::new();
        let mut seen = FxHashSet::default();
        each_storage(&self, None, &mut FxHashSet::default(), &mut |_, storage| {
            if storage.as_slice().is_none() && seen.insert(storage.id()) {
                lazy.push(storage);
            }
        });
        if lazy.is_empty() {
            return Ok(self);
        }
        // Their paths are asked for only if something is wrong.
        let named = |storage: &Storage, error: Error| {
            let storages = self.storages().into_iter();
            let path = storages.filter(|(_, found)| found.same_as(storage)).map(|(path, _)| path);
            path.fold(error, |error, path| error.at_tensor(path))
        };
        let mut memory = Vec::with_capacity(lazy.len());
        for storage in &lazy {
            let zeroed = zeroed(storage.len(), "read a tensor");
            memory.push(zeroed.map_err(|error| named(storage, error))?);
        }
        read_storages(&lazy, &mut memory, &options.into())
            .map_err(|(index, error)| named(lazy[index], error))?;
        let resident: FxHashMap<usize, Storage> = lazy
            .into_iter()
            .zip(memory)
            .map(|(storage, memory)| (storage.id(), storage.held_in(memory)))
            .collect();
        Replacer { resident, shared: FxHashMap::default() }.value(&mut self);
        Ok(self)
    }
}

/// Calls `visit` with the storages of a tree, those of shared values once, with the path of the
/// value that holds them if `path` is given: making paths takes long.
fn each_storage<'a>(
    value: &'a Value,
    path: Option<&str>,
    shared: &mut FxHashSet<usize>,
    visit: &mut impl FnMut(Option<&str>, &'a Storage),
) {
    fn below(path: Option<&str>, key: impl FnOnce() -> String) -> Option<String> {
        path.map(|path| join(path, &key()))
    }
    fn of_dict<'a>(
        dict: &'a Dict,
        path: Option<&str>,
        shared: &mut FxHashSet<usize>,
        visit: &mut impl FnMut(Option<&str>, &'a Storage),
    ) {
        for (key, value) in &dict.entries {
            let path = below(path, || key.key_text());
            each_storage(key, path.as_deref(), shared, visit);
            each_storage(value, path.as_deref(), shared, visit);
        }
        dict.attributes.iter().for_each(|attributes| of_dict(attributes, path, shared, visit));
    }
    fn of_items<'a>(
        items: &'a [Value],
        path: Option<&str>,
        shared: &mut FxHashSet<usize>,
        visit: &mut impl FnMut(Option<&str>, &'a Storage),
    ) {
        for (i, item) in items.iter().enumerate() {
            each_storage(item, below(path, || i.to_string()).as_deref(), shared, visit);
        }
    }
    if value.shared_id().is_some_and(|id| !shared.insert(id)) {
        return;
    }
    match value.resolved() {
        Value::Tensor(tensor) => visit(path, tensor.storage()),
        Value::Storage(storage, _) => visit(path, storage),
        Value::Dict(dict) => of_dict(dict, path, shared, visit),
        Value::Object(object) => of_dict(&object.content, path, shared, visit),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
            of_items(items, path, shared, visit);
        }
        Value::Call(call) => {
            of_items(&call.args, path, shared, visit);
            if let Some(state) = &call.state {
                let path = below(path, || "state".to_owned());
                each_storage(state, path.as_deref(), shared, visit);
            }
        }
        _ => {}
    }
}

impl Dict {
    /// The values with their keys as text, in order.
    pub fn children(&self) -> Vec<(String, &Value)> {
        self.entries.iter().map(|(key, value)| (key.key_text(), value)).collect()
    }
}

/// Gives tensors other storages, in place. Ties between them are kept.
struct Replacer {
    resident: FxHashMap<usize, Storage>,
    /// Shared values as they were, which keeps their numbers taken, and their results.
    shared: FxHashMap<usize, (Value, Value)>,
}

impl Replacer {
    fn value(&mut self, value: &mut Value) {
        if let Some(id) = value.shared_id() {
            let (_, replaced) = match self.shared.get(&id) {
                Some(known) => known,
                None => {
                    let mut inner = value.resolved().clone();
                    self.value(&mut inner);
                    self.shared.entry(id).or_insert((value.clone(), inner.share()))
                }
            };
            *value = replaced.clone();
            return;
        }
        match value {
            Value::Tensor(tensor) => {
                if let Some(storage) = self.resident.get(&tensor.storage().id()) {
                    *tensor = tensor.with_storage(storage.clone());
                }
            }
            Value::Storage(storage, _) => {
                if let Some(resident) = self.resident.get(&storage.id()) {
                    *storage = resident.clone();
                }
            }
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                items.iter_mut().for_each(|item| self.value(item));
            }
            Value::Dict(dict) => self.dict(dict),
            Value::Object(object) => self.dict(&mut object.content),
            Value::Call(call) => {
                call.args.iter_mut().chain(&mut call.state).for_each(|arg| self.value(arg));
            }
            _ => {}
        }
    }

    fn dict(&mut self, dict: &mut Dict) {
        for (key, value) in &mut dict.entries {
            self.value(key);
            self.value(value);
        }
        dict.attributes.iter_mut().for_each(|attributes| self.dict(attributes));
    }
}

/// Characters of a key that is a tuple, in a path.
const TUPLE_SHOWN: usize = 4096;

/// A tuple as Python writes it, cut if it is long: shared parts may occur in it very often.
fn tuple_text(items: &[Value]) -> String {
    fn put(items: &[Value], out: &mut String) {
        out.push('(');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            match item.resolved() {
                _ if out.len() > TUPLE_SHOWN => return out.push('…'),
                Value::Tuple(items) => put(items, out),
                Value::Str(text) => out.push_str(&format!("'{text}'")),
                other => out.push_str(&other.key_text()),
            }
        }
        out.push_str(if items.len() == 1 { ",)" } else { ")" });
    }
    let mut out = String::new();
    put(items, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_finds_keys_that_hold_dots() {
        let inner: Dict = [("a.b", 1), ("a", 2)].into_iter().collect();
        let list = Value::List(vec![Value::Dict(inner), Value::None]);
        let tree = Value::Dict([("x", list)].into_iter().collect());
        assert_eq!(tree.lookup("x.0.a.b"), Some(&Value::Int(1)));
        assert_eq!(tree.lookup("x.0.a"), Some(&Value::Int(2)));
        assert_eq!(tree.lookup("x.1"), Some(&Value::None));
        assert_eq!(tree.lookup("x.2"), None);
        assert_eq!(tree.lookup(""), Some(&tree));
    }
}
