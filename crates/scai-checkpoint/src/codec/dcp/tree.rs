//! A state tree from values and their paths.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::metadata::{Key, name};
use crate::error::{Error, Place, Result};
use crate::value::{Dict, DictKind, MAX_DEPTH, Value};

/// Items of a list that may be missing, since nothing is stored of an empty mapping.
const MISSING: usize = 1 << 16;

/// Where the commit of a directory has the [`Forms`] of its tree.
pub(super) const FORMS: &str = "tree";

/// A mapping that PyTorch makes of the modules of a model.
const ORDERED: &str = "OrderedDict";

/// What the paths of PyTorch do not say of a container or a tensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Form {
    /// Its path: keys as text, indices as numbers.
    pub(super) path: Vec<serde_json::Value>,
    /// The keys of the mapping are integers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) integers: bool,
    /// The class of the mapping, if it is not `dict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) class: Option<String>,
    /// The attributes of an `OrderedDict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attributes: Option<serde_json::Value>,
    /// The tensor is a parameter.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) parameter: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The forms of a tree, by path.
#[derive(Debug, Default)]
pub(super) struct Forms(HashMap<Vec<Key>, Form>);

impl Forms {
    /// Reads what a commit says.
    pub(super) fn decode(text: &str) -> Result<Self> {
        let newer = || {
            let hint = "it was written by a newer version; upgrade `scai`";
            Error::unsupported(Place::default(), "the description of the tree is unknown", hint)
        };
        let forms: Vec<Form> = serde_json::from_str(text).map_err(|_| newer())?;
        let key = |key: &serde_json::Value| match key {
            serde_json::Value::String(name) => Some(Key::Name(name.clone())),
            other => other.as_u64().map(|index| Key::Index(index as usize)),
        };
        let forms = forms.into_iter().map(|form| {
            let path: Option<Vec<Key>> = form.path.iter().map(key).collect();
            Ok((path.ok_or_else(newer)?, form))
        });
        forms.collect::<Result<_>>().map(Self)
    }

    /// Whether the tensor at a path is a parameter.
    pub(super) fn is_parameter(&self, path: &[Key]) -> bool {
        self.0.get(path).is_some_and(|form| form.parameter)
    }
}

/// A tree under construction.
#[derive(Debug)]
pub(super) enum Node {
    Leaf(Value),
    Map { numbers: HashMap<String, usize>, entries: Vec<(String, Node)> },
    List(Vec<Option<Node>>),
}

impl Node {
    pub(super) fn map() -> Self {
        Self::Map { numbers: HashMap::new(), entries: Vec::new() }
    }

    fn list() -> Self {
        Self::List(Vec::new())
    }

    /// Puts a value at a path; `most` is the number of values.
    pub(super) fn insert(&mut self, path: &[Key], value: Value, most: usize) -> Result<()> {
        let damaged = |what: &str| {
            let place = Place { tensor: Some(name(path)), ..Place::default() };
            Error::damaged(place, what)
        };
        if path.len() > MAX_DEPTH {
            return Err(Error::unsupported(
                Place::default(),
                format!("containers that are nested deeper than {MAX_DEPTH} levels"),
                "save a flatter structure",
            ));
        }
        let mut node = self;
        for (i, key) in path.iter().enumerate() {
            let next = || match path.get(i + 1) {
                None => Self::Leaf(Value::None),
                Some(Key::Name(_)) => Self::map(),
                Some(Key::Index(_)) => Self::list(),
            };
            let is_last = i + 1 == path.len();
            let (child, is_new) = match (node, key) {
                (Self::Map { numbers, entries }, Key::Name(name)) => match numbers.get(name) {
                    Some(&number) => (&mut entries[number].1, false),
                    None => {
                        let number = entries.len();
                        numbers.insert(name.clone(), number);
                        entries.push((name.clone(), next()));
                        (&mut entries[number].1, true)
                    }
                },
                (Self::List(items), &Key::Index(index)) => {
                    if index >= most.saturating_add(MISSING) {
                        return Err(damaged("its index in a list is too large"));
                    }
                    if items.len() <= index {
                        items.resize_with(index + 1, || None);
                    }
                    let is_new = items[index].is_none();
                    (items[index].get_or_insert_with(next), is_new)
                }
                _ => return Err(damaged("its path leads through a value of another kind")),
            };
            if is_last && !is_new {
                return Err(damaged("two values have this path"));
            }
            node = child;
        }
        *node = Self::Leaf(value);
        Ok(())
    }

    /// The tree.
    pub(super) fn finish(self, forms: &Forms) -> Result<Value> {
        self.value(&mut Vec::new(), forms)
    }

    fn value(self, path: &mut Vec<Key>, forms: &Forms) -> Result<Value> {
        Ok(match self {
            Self::Leaf(value) => value,
            Self::List(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    path.push(Key::Index(index));
                    values.push(item.map_or(Ok(Value::None), |item| item.value(path, forms))?);
                    path.pop();
                }
                Value::List(values)
            }
            Self::Map { entries, .. } => {
                let form = forms.0.get(path.as_slice());
                let mut values = Vec::with_capacity(entries.len());
                for (key, node) in entries {
                    path.push(Key::Name(key.clone()));
                    let value = node.value(path, forms)?;
                    path.pop();
                    let integer = form.filter(|form| form.integers).and_then(|_| key.parse().ok());
                    values.push((integer.map_or(Value::Str(key), Value::Int), value));
                }
                let kind = match form.and_then(|form| form.class.as_deref()) {
                    None => DictKind::Dict,
                    Some(ORDERED) => DictKind::Ordered,
                    Some(other) => {
                        let hint = "it was written by a newer version; upgrade `scai`";
                        let what = format!("a mapping of the class `{other}`");
                        return Err(Error::unsupported(Place::default(), what, hint));
                    }
                };
                let attributes = form.and_then(|form| form.attributes.as_ref()).map(from_json);
                let attributes = match attributes {
                    Some(Value::Dict(attributes)) => Some(Box::new(attributes)),
                    _ => None,
                };
                Value::Dict(Dict { kind, entries: values, attributes })
            }
        })
    }
}

/// The class of a mapping that is not a `dict`; `None` for one that cannot be described.
pub(super) fn class(kind: DictKind) -> Option<Option<&'static str>> {
    match kind {
        DictKind::Dict => Some(None),
        DictKind::Ordered => Some(Some(ORDERED)),
        DictKind::Counter => None,
    }
}

/// Attributes as JSON that leads back to the same value; `None` if there is none.
pub(super) fn to_json(value: &Value) -> Option<serde_json::Value> {
    Some(match value.resolved() {
        Value::None => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Str(value) => value.as_str().into(),
        Value::Dict(dict) if dict.attributes.is_none() => {
            // Pairs, since an object of JSON has no order.
            let pairs = dict.entries.iter().map(|(key, value)| {
                let pair = vec![key.as_str()?.into(), to_json(value)?];
                Some(serde_json::Value::Array(pair))
            });
            let pairs = serde_json::Value::Array(pairs.collect::<Option<_>>()?);
            match class(dict.kind)? {
                Some(class) => serde_json::json!({ class: pairs }),
                None => pairs,
            }
        }
        _ => return None,
    })
}

fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(value) => Value::Int(value.as_i64().unwrap_or_default()),
        serde_json::Value::String(value) => Value::Str(value.clone()),
        serde_json::Value::Array(pairs) => {
            let entries = pairs.iter().filter_map(|pair| {
                let pair = pair.as_array()?;
                Some((from_json(pair.first()?), from_json(pair.get(1)?)))
            });
            Value::Dict(Dict { entries: entries.collect(), ..Dict::new() })
        }
        serde_json::Value::Object(classes) => match classes.get(ORDERED).map(from_json) {
            Some(Value::Dict(dict)) => Value::Dict(Dict { kind: DictKind::Ordered, ..dict }),
            _ => Value::None,
        },
        serde_json::Value::Null => Value::None,
    }
}
