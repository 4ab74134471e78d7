//! Finding and visiting parts of a state tree by path.
//!
//! A path joins keys and indices with dots: `optimizer_state_dict.state.0.exp_avg`. Keys may hold
//! dots themselves (`backbone.conv1.weight`); a lookup takes whichever key fits.

use std::collections::{HashMap, HashSet};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Call, Dict, Value};
use crate::error::Result;
use crate::memory::zeroed;
use crate::tensor::{Destination, Storage, Tensor, read_into};

/// Joins a parent's path and a key.
pub fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

impl Value {
    /// How a key reads in a path.
    pub fn key_text(&self) -> String {
        match self.resolved() {
            Value::Str(text) => text.clone(),
            Value::Int(int) => int.to_string(),
            Value::BigInt(int) => int.to_string(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::None => "None".to_owned(),
            Value::Float(float) => float.to_string(),
            Value::Tuple(items) => tuple_text(items),
            other => format!("{other:?}"),
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

    /// The value at `path`; the empty path is the value itself.
    pub fn lookup(&self, path: &str) -> Option<&Value> {
        if path.is_empty() {
            return Some(self);
        }
        // A key that holds dots may fit in more than one way, so every child is tried.
        self.children().into_iter().find_map(|(key, child)| {
            let rest = path.strip_prefix(&key)?;
            if rest.is_empty() { Some(child) } else { child.lookup(rest.strip_prefix('.')?) }
        })
    }

    /// Calls `visit` with every value of the tree and its path, parents first. A shared value is
    /// passed resolved, at each of its places; what it holds is visited at the first of them.
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

    /// All storages with the path of the value that holds them, each storage once: also those of
    /// tensors that are keys or attributes of a dict.
    pub fn storages(&self) -> Vec<(String, &Storage)> {
        fn of_dict<'a>(dict: &'a Dict, path: &str, found: &mut Found<'a>) {
            for (key, value) in &dict.entries {
                let path = join(path, &key.key_text());
                of_value(key, &path, found);
                of_value(value, &path, found);
            }
            dict.attributes.iter().for_each(|attributes| of_dict(attributes, path, found));
        }
        fn of_value<'a>(value: &'a Value, path: &str, found: &mut Found<'a>) {
            if value.shared_id().is_some_and(|id| !found.shared.insert(id)) {
                return;
            }
            match value.resolved() {
                Value::Tensor(tensor) => found.add(path, tensor.storage()),
                Value::Storage(storage, _) => found.add(path, storage),
                Value::Dict(dict) => of_dict(dict, path, found),
                Value::Object(object) => of_dict(&object.content, path, found),
                other => {
                    for (key, child) in other.children() {
                        of_value(child, &join(path, &key), found);
                    }
                }
            }
        }
        let mut found = Found::default();
        of_value(self, "", &mut found);
        found.storages
    }

    /// The same tree with every storage replaced by what `map` makes of it, called once for each
    /// storage with the path of the first value that holds it. Ties between tensors are kept.
    ///
    /// # Errors
    /// Whatever `map` returns.
    pub fn map_storages(
        &self,
        map: &mut dyn FnMut(&str, &Storage) -> Result<Storage>,
    ) -> Result<Value> {
        Mapper { map, storages: HashMap::new(), shared: FxHashMap::default() }.value(self, "")
    }

    /// The same tree with all bytes in memory and checked, read by `threads` threads.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] naming the first tensor whose bytes are not those that were saved.
    pub fn resident(&self, threads: usize) -> Result<Value> {
        let mut storages = self.storages();
        storages.retain(|(_, storage)| storage.as_slice().is_none());
        let memory = storages.iter().map(|(path, storage)| {
            zeroed(storage.len(), "read a tensor").map_err(|error| error.at_tensor(path))
        });
        let mut memory = memory.collect::<Result<Vec<_>>>()?;
        let destinations = storages.iter().zip(&mut memory);
        let destinations = destinations.map(|((name, storage), bytes)| Destination {
            name,
            storage,
            bytes,
            is_new: true,
        });
        read_into(destinations.collect(), threads)?;
        let mut resident: HashMap<usize, Storage> = storages
            .into_iter()
            .zip(memory)
            .map(|((_, storage), memory)| (storage.id(), storage.held_in(memory)))
            .collect();
        self.map_storages(&mut |_, storage| {
            Ok(resident.remove(&storage.id()).unwrap_or_else(|| storage.clone()))
        })
    }
}

/// Storages that were found, each once.
#[derive(Default)]
struct Found<'a> {
    seen: HashSet<usize>,
    shared: FxHashSet<usize>,
    storages: Vec<(String, &'a Storage)>,
}

impl<'a> Found<'a> {
    fn add(&mut self, path: &str, storage: &'a Storage) {
        if self.seen.insert(storage.id()) {
            self.storages.push((path.to_owned(), storage));
        }
    }
}

impl Dict {
    /// The values with their keys as text, in order.
    pub fn children(&self) -> Vec<(String, &Value)> {
        self.entries.iter().map(|(key, value)| (key.key_text(), value)).collect()
    }
}

/// Replaces the storages of a tree.
struct Mapper<'a> {
    map: &'a mut dyn FnMut(&str, &Storage) -> Result<Storage>,
    storages: HashMap<usize, Storage>,
    /// What became of shared values.
    shared: FxHashMap<usize, Value>,
}

impl Mapper<'_> {
    fn storage(&mut self, storage: &Storage, path: &str) -> Result<Storage> {
        if let Some(mapped) = self.storages.get(&storage.id()) {
            return Ok(mapped.clone());
        }
        let mapped = (self.map)(path, storage)?;
        self.storages.insert(storage.id(), mapped.clone());
        Ok(mapped)
    }

    fn value(&mut self, value: &Value, path: &str) -> Result<Value> {
        Ok(match value {
            Value::Shared(shared) => match self.shared.get(&shared.id()) {
                Some(mapped) => mapped.clone(),
                None => {
                    let mapped = self.value(shared.get(), path)?.share();
                    self.shared.insert(shared.id(), mapped.clone());
                    mapped
                }
            },
            Value::Tensor(tensor) => {
                Value::Tensor(tensor.with_storage(self.storage(tensor.storage(), path)?))
            }
            Value::Storage(storage, dtype) => Value::Storage(self.storage(storage, path)?, *dtype),
            Value::List(items) => Value::List(self.items(items, path)?),
            Value::Tuple(items) => Value::Tuple(self.items(items, path)?),
            Value::Set(items) => Value::Set(self.items(items, path)?),
            Value::Dict(dict) => Value::Dict(self.dict(dict, path)?),
            Value::Object(object) => Value::Object(Box::new(super::Object {
                class: object.class.clone(),
                content: self.dict(&object.content, path)?,
            })),
            Value::Call(call) => Value::Call(Box::new(Call {
                global: call.global,
                args: self.items(&call.args, path)?,
                state: match &call.state {
                    Some(state) => Some(self.value(state, &join(path, "state"))?),
                    None => None,
                },
            })),
            other => other.clone(),
        })
    }

    fn items(&mut self, items: &[Value], path: &str) -> Result<Vec<Value>> {
        let items = items.iter().enumerate();
        items.map(|(i, item)| self.value(item, &join(path, &i.to_string()))).collect()
    }

    fn dict(&mut self, dict: &Dict, path: &str) -> Result<Dict> {
        let mut entries = Vec::with_capacity(dict.entries.len());
        for (key, value) in &dict.entries {
            let path = join(path, &key.key_text());
            entries.push((self.value(key, &path)?, self.value(value, &path)?));
        }
        let attributes = match &dict.attributes {
            Some(attributes) => Some(Box::new(self.dict(attributes, path)?)),
            None => None,
        };
        Ok(Dict { kind: dict.kind, entries, attributes })
    }
}

/// Characters of a key that is a tuple, in a path.
const TUPLE_SHOWN: usize = 4096;

/// A tuple as Python writes it, cut where it is long: shared parts may be in it very often.
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
