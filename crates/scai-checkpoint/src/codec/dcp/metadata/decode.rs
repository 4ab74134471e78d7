//! From the pickle to the metadata.

use std::collections::HashMap;

use super::{Chunk, Entry, Files, Key, Location, Metadata, Stored};
use crate::codec::Foreign;
use crate::codec::torch::data;
use crate::error::{Error, Place, Result};
use crate::tensor::DType;
use crate::value::{Object, Value};

fn damaged(what: impl Into<String>) -> Error {
    Error::damaged(Place::default(), what)
}

/// An item by the name of its value and, for a region of a tensor, where that begins.
type Items<'a> = HashMap<(&'a str, Option<Vec<u64>>), Location>;

pub(super) fn decode(bytes: &[u8]) -> Result<Metadata> {
    let tree = data(bytes, Foreign::StandIn).map_err(|error| match error {
        Error::Damaged { detail, .. } => damaged(detail),
        error => error,
    })?;
    let Some(metadata) = object(&tree, "Metadata") else {
        return Err(Error::not_a_checkpoint(
            Place::default(),
            "a pickle that is not the metadata of a distributed checkpoint",
            "open the directory, or one of the files in it",
        ));
    };
    let field = |position, name| field(metadata, position, name);
    let entries = |value: Option<&Value>| match value.map(Value::resolved) {
        None | Some(Value::None) => Vec::new(),
        Some(value) => value.as_dict().map(|dict| dict.entries.clone()).unwrap_or_default(),
    };
    let stored = entries(field(0, "state_dict_metadata"));
    let paths = entries(field(1, "planner_data"));
    let mut files = Files::default();
    let places = entries(field(2, "storage_data"));
    let items = items(&places, &mut files)?;

    // Paths in the order of the state; without them, each name is a key at the top.
    let mut known: HashMap<&str, &Value> = HashMap::with_capacity(stored.len());
    for (name, value) in &stored {
        known.insert(text(name)?, value);
    }
    let mut found = Vec::with_capacity(stored.len());
    for (name, path) in &paths {
        if let Some(value) = known.remove(text(name)?) {
            let path = path_of(path)?;
            found.push(Entry { content: content(text(name)?, value, &items)?, path });
        }
    }
    for (name, _) in &stored {
        let name = text(name)?;
        if let Some(value) = known.remove(name) {
            let path = vec![Key::Name(name.to_owned())];
            found.push(Entry { content: content(name, value, &items)?, path });
        }
    }
    Ok(Metadata { files: files.names, entries: found })
}

/// The object of this class, whatever the module that the class is in.
fn object<'a>(value: &'a Value, class: &str) -> Option<&'a Object> {
    match value.resolved() {
        Value::Object(object) if object.class.rsplit('.').next() == Some(class) => Some(object),
        _ => None,
    }
}

/// An attribute that was set, or an argument that was given.
fn field<'a>(object: &'a Object, position: i64, name: &str) -> Option<&'a Value> {
    let entries = || object.content.entries.iter();
    let named = entries().find(|(key, _)| key.as_str() == Some(name));
    let found = named.or_else(|| entries().find(|(key, _)| key.as_int() == Some(position)));
    found.map(|(_, value)| value).filter(|value| !matches!(value.resolved(), Value::None))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| damaged(format!("a name is a {}", value.type_name())))
}

fn number(value: Option<&Value>) -> Result<u64> {
    let number = value.and_then(Value::as_int).and_then(|int| u64::try_from(int).ok());
    number.ok_or_else(|| damaged("an offset or a length is not a number"))
}

/// A `torch.Size`, or a tuple of integers.
fn dims(value: Option<&Value>) -> Result<Vec<u64>> {
    let wrong = || damaged("a shape is not a tuple of numbers");
    match value.map(Value::resolved) {
        Some(Value::Size(dims)) => {
            dims.iter().map(|&dim| u64::try_from(dim).map_err(|_| wrong())).collect()
        }
        Some(Value::Tuple(items) | Value::List(items)) => {
            items.iter().map(|item| number(Some(item))).collect()
        }
        _ => Err(wrong()),
    }
}

fn items<'a>(places: &'a [(Value, Value)], files: &mut Files) -> Result<Items<'a>> {
    let mut items = HashMap::with_capacity(places.len());
    for (index, info) in places {
        let index = object(index, "MetadataIndex")
            .ok_or_else(|| damaged("an item has no name (`MetadataIndex`)"))?;
        let name = field(index, 0, "fqn").ok_or_else(|| damaged("an item has no name"))?;
        let offset = field(index, 1, "offset").map(|offset| dims(Some(offset))).transpose()?;
        let info = object(info, "_StorageInfo")
            .ok_or_else(|| damaged("an item has no place (`_StorageInfo`)"))?;
        let transforms = field(info, 3, "transform_descriptors");
        if let Some(Value::List(transforms) | Value::Tuple(transforms)) =
            transforms.map(Value::resolved)
            && let [first, ..] = transforms.as_slice()
        {
            let what = match first.as_str() {
                Some(name) => format!("items that an extension has transformed ({name})"),
                None => "items that an extension has transformed".to_owned(),
            };
            let hint = "load it with torch, and save it without extensions";
            return Err(Error::unsupported(Place::default(), what, hint));
        }
        let file = field(info, 0, "relative_path")
            .ok_or_else(|| damaged("an item has no file (`relative_path`)"))?;
        let at = Location {
            file: files.number(text(file)?),
            offset: number(field(info, 1, "offset"))?,
            len: number(field(info, 2, "length"))?,
        };
        items.insert((text(name)?, offset), at);
    }
    Ok(items)
}

fn path_of(path: &Value) -> Result<Vec<Key>> {
    let (Value::Tuple(keys) | Value::List(keys)) = path.resolved() else {
        return Err(damaged("the path of a value is not a tuple"));
    };
    if keys.is_empty() {
        return Err(damaged("the path of a value is empty"));
    }
    let key = |key: &Value| match key.resolved() {
        Value::Str(name) => Ok(Key::Name(name.clone())),
        Value::Int(index) => usize::try_from(*index)
            .map(Key::Index)
            .map_err(|_| damaged("the index of a value is negative")),
        other => Err(damaged(format!("a step of the path of a value is a {}", other.type_name()))),
    };
    keys.iter().map(key).collect()
}

fn content(name: &str, value: &Value, items: &Items<'_>) -> Result<Stored> {
    let missing = || {
        let place = Place { tensor: Some(name.to_owned()), ..Place::default() };
        Error::damaged(place, "the metadata do not say which file holds it")
    };
    if object(value, "BytesStorageMetadata").is_some() {
        let at = items.get(&(name, None)).ok_or_else(missing)?;
        return Ok(Stored::Value(*at));
    }
    let Some(tensor) = object(value, "TensorStorageMetadata") else {
        return Err(damaged(format!("`{name}` is neither a tensor nor bytes")).at_tensor(name));
    };
    let (dtype, requires_grad) = properties(tensor).map_err(|error| error.at_tensor(name))?;
    let shape = dims(field(tensor, 1, "size"))?;
    let chunks = match field(tensor, 2, "chunks").map(Value::resolved) {
        Some(Value::List(chunks) | Value::Tuple(chunks)) => chunks.as_slice(),
        _ => &[],
    };
    let chunks = chunks.iter().map(|chunk| {
        let chunk = object(chunk, "ChunkStorageMetadata")
            .ok_or_else(|| damaged("a region is not a `ChunkStorageMetadata`"))?;
        let offsets = dims(field(chunk, 0, "offsets"))?;
        let at = *items.get(&(name, Some(offsets.clone()))).ok_or_else(missing)?;
        Ok(Chunk { sizes: dims(field(chunk, 1, "sizes"))?, offsets, at })
    });
    let chunks = chunks.collect::<Result<_>>().map_err(|error: Error| error.at_tensor(name))?;
    Ok(Stored::Tensor { dtype, shape, requires_grad, chunks })
}

/// The dtype of a tensor, and whether it requires gradients. They are set as one tuple.
fn properties(tensor: &Object) -> Result<(DType, bool)> {
    let wrong = || damaged("the dtype is missing");
    let properties = field(tensor, 0, "properties").ok_or_else(wrong)?;
    let properties = object(properties, "TensorProperties").ok_or_else(wrong)?;
    let state = match field(properties, -1, "state").map(Value::resolved) {
        Some(Value::Tuple(state)) => Some(state),
        _ => None,
    };
    let part = |position: usize, name| match state {
        Some(state) => state.get(position),
        None => field(properties, position as i64, name),
    };
    let dtype = match part(0, "dtype").map(Value::resolved) {
        Some(Value::DType(dtype)) => *dtype,
        Some(Value::Object(other)) => {
            return Err(Error::unsupported(
                Place::default(),
                format!("elements of the type `{}`", other.class),
                "load it with torch, and save it with another dtype",
            ));
        }
        _ => return Err(wrong()),
    };
    let requires_grad =
        matches!(part(2, "requires_grad").map(Value::resolved), Some(Value::Bool(true)));
    Ok((dtype, requires_grad))
}
