//! The state tree as a list.

use std::collections::{HashMap, HashSet};

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::value::join;
use scai_checkpoint::{Result, Tensor, Value};
use serde::{Serialize, Serializer};
use serde_json::Value as Json;

use crate::json::to_json;
use crate::python::{flat_list, scalar};
use crate::stats::{Stats, stats};

/// A value of the tree, and what it has in common with others.
///
/// It serialises with its path, its type, and what that type has: length, value, or tensor.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The path in the whole tree.
    pub path: String,
    /// The value. A list of scalars has no entries of its own.
    pub value: &'a Value,
    /// Containers of the shown part that it is in.
    pub depth: usize,
    /// It is the last value of its container.
    pub is_last: bool,
    /// The first tensor that is the same view of the same memory.
    pub tied_to: Option<String>,
    /// The first tensor that is another view of the same memory.
    pub shares_memory_with: Option<String>,
    /// The first path of the same container object; its entries are below that.
    pub same_as: Option<String>,
    /// For a tensor, if statistics were requested; `Some(None)` if its elements are not numbers.
    pub stats: Option<Option<Box<Stats>>>,
    /// Bytes of the path before the name.
    parent: usize,
}

impl Entry<'_> {
    /// The name in its container: the key or the index.
    pub fn name(&self) -> &str {
        &self.path[self.parent..]
    }
}

/// What two views of the same memory have in common: storage, offset, shape, strides, size of an element.
type View<'a> = (usize, usize, &'a [usize], &'a [usize], usize);

fn view(tensor: &Tensor) -> View<'_> {
    let id = tensor.storage().id();
    (id, tensor.offset(), tensor.shape(), tensor.strides(), tensor.dtype().size())
}

/// The value at `path`, unless that is the whole tree, and what is below it down to `levels`.
pub(super) fn entries<'a>(value: &'a Value, path: &str, levels: usize) -> Vec<Entry<'a>> {
    let mut lister = Lister { levels, ..Lister::default() };
    if !path.is_empty() {
        lister.entries.push(Entry {
            path: path.to_owned(),
            value,
            depth: 0,
            is_last: true,
            tied_to: None,
            shares_memory_with: None,
            same_as: None,
            stats: None,
            parent: 0,
        });
    }
    lister.children(value, path, 0);
    lister.entries
}

#[derive(Default)]
struct Lister<'a> {
    entries: Vec<Entry<'a>>,
    seen: HashMap<View<'a>, String>,
    /// The first tensor of each storage.
    storages: HashMap<usize, String>,
    /// The first path of each shared container.
    shared: HashMap<usize, String>,
    levels: usize,
}

impl<'a> Lister<'a> {
    fn children(&mut self, value: &'a Value, path: &str, depth: usize) {
        let children = value.children();
        let last = children.len().saturating_sub(1);
        for (i, (name, child)) in children.into_iter().enumerate() {
            let path = join(path, &name);
            let (tied_to, shares_memory_with) = match child.resolved() {
                Value::Tensor(tensor) if tensor.numel() > 0 => self.tie(tensor, &path),
                _ => (None, None),
            };
            let is_flat = flat_list(child, 0).is_some();
            let same_as = match child.shared_id() {
                Some(id) if !is_flat && !child.children().is_empty() => {
                    let first = self.shared.get(&id).cloned();
                    self.shared.entry(id).or_insert_with(|| path.clone());
                    first
                }
                _ => None,
            };
            let is_new = same_as.is_none();
            self.entries.push(Entry {
                parent: path.len() - name.len(),
                path: path.clone(),
                value: child,
                depth,
                is_last: i == last,
                tied_to,
                shares_memory_with,
                same_as,
                stats: None,
            });
            if depth + 1 < self.levels && !is_flat && is_new {
                self.children(child, &path, depth + 1);
            }
        }
    }

    /// Earlier tensors with the same memory: the same view, another view.
    fn tie(&mut self, tensor: &'a Tensor, path: &str) -> (Option<String>, Option<String>) {
        if let Some(known) = self.seen.get(&view(tensor)) {
            return (Some(known.clone()), None);
        }
        self.seen.insert(view(tensor), path.to_owned());
        let id = tensor.storage().id();
        let known = self.storages.get(&id).cloned();
        self.storages.entry(id).or_insert_with(|| path.to_owned());
        (None, known)
    }
}

/// Adds the statistics of all tensors; tied ones are read once.
pub(super) fn measure(entries: &mut [Entry<'_>], read: ReadOptions<'_>) -> Result<()> {
    let firsts: HashSet<String> =
        entries.iter().filter_map(|entry| entry.tied_to.clone()).collect();
    let mut known = HashMap::new();
    for entry in entries {
        let Value::Tensor(tensor) = entry.value.resolved() else { continue };
        let first = entry.tied_to.as_deref().and_then(|first| known.get(first));
        let measured = match first {
            // The same bytes may be other numbers to another dtype.
            Some((dtype, measured)) if *dtype == tensor.dtype() => Clone::clone(measured),
            _ => stats(tensor, read).map_err(|error| error.at_tensor(&*entry.path))?.map(Box::new),
        };
        if firsts.contains(&entry.path) {
            known.insert(entry.path.clone(), (tensor.dtype(), measured.clone()));
        }
        entry.stats = Some(measured);
    }
    Ok(())
}

/// An entry as it is in JSON.
#[derive(Serialize)]
struct JsonEntry<'a> {
    path: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The class of an object that only code could make.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    /// For a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<usize>,
    /// For anything that is neither a container nor a tensor, and for a list of such values.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<JsonTensor<'a>>,
    /// For a container that is the same object as an earlier one, which has its entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_as: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonTensor<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    strides: &'a [usize],
    bytes: u64,
    tied_to: Option<&'a str>,
    shares_memory_with: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<Option<&'a Stats>>,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = self.value.resolved();
        let object = match value {
            Value::Object(object) => Some(object),
            _ => None,
        };
        let tensor = match value {
            Value::Tensor(tensor) => Some(JsonTensor {
                dtype: tensor.dtype().name(),
                shape: tensor.shape(),
                strides: tensor.strides(),
                bytes: tensor.nbytes(),
                tied_to: self.tied_to.as_deref(),
                shares_memory_with: self.shares_memory_with.as_deref(),
                stats: self.stats.as_ref().map(Option::as_deref),
            }),
            _ => None,
        };
        let is_plain =
            object.is_none() && (scalar(value).is_some() || flat_list(value, 0).is_some());
        let len = value.children().len();
        JsonEntry {
            path: &self.path,
            kind: value.type_name(),
            class: object.map(|object| object.class.as_str()),
            len: (len > 0 || value.as_dict().is_some()).then_some(len),
            value: is_plain.then(|| to_json(value)),
            tensor,
            same_as: self.same_as.as_deref(),
        }
        .serialize(serializer)
    }
}
