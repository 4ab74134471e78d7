//! The state tree into Rust values, through serde.

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::ser::under;
use super::{Dict, Value};
use crate::error::{Error, Result};

/// Turns a state tree, or a part of one, into a Rust value.
///
/// # Errors
/// [`Error::Conversion`] if the tree does not fit, with the path of the value.
pub fn from_value<T: de::DeserializeOwned>(value: &Value) -> Result<T> {
    T::deserialize(FromValue(value))
}

impl de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error::Conversion { at: String::new(), detail: message.to_string() }
    }
}

#[derive(Clone, Copy)]
struct FromValue<'a>(&'a Value);

impl<'a> IntoDeserializer<'a, Error> for FromValue<'a> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for FromValue<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.resolved() {
            Value::None => visitor.visit_unit(),
            Value::Bool(v) => visitor.visit_bool(*v),
            Value::Int(v) => visitor.visit_i64(*v),
            Value::BigInt(v) => {
                if let Ok(v) = u64::try_from(&v.0) {
                    visitor.visit_u64(v)
                } else if let Ok(v) = i128::try_from(&v.0) {
                    visitor.visit_i128(v)
                } else if let Ok(v) = u128::try_from(&v.0) {
                    visitor.visit_u128(v)
                } else {
                    visitor.visit_string(v.to_string())
                }
            }
            Value::Float(v) => visitor.visit_f64(*v),
            Value::Complex(re, im) => {
                let parts = [Value::Float(*re), Value::Float(*im)];
                visitor.visit_seq(Seq { items: parts.iter(), index: 0 })
            }
            Value::Str(v) | Value::Device(v) | Value::Layout(v) | Value::QScheme(v) => {
                visitor.visit_str(v)
            }
            Value::DType(v) => visitor.visit_str(v.name()),
            Value::Bytes(v) | Value::ByteArray(v) => visitor.visit_bytes(v),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                visitor.visit_seq(Seq { items: items.iter(), index: 0 })
            }
            Value::Size(dims) => {
                let dims: Vec<Value> = dims.iter().map(|&dim| Value::Int(dim)).collect();
                visitor.visit_seq(Seq { items: dims.iter(), index: 0 })
            }
            Value::Dict(dict) => visitor.visit_map(Map::new(dict)),
            other => Err(de::Error::custom(format!(
                "a {} cannot become a plain Rust value",
                other.type_name()
            ))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.resolved() {
            Value::None => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.0.resolved() {
            Value::Str(name) => {
                let name: StrDeserializer<'_, Error> = name.as_str().into_deserializer();
                visitor.visit_enum(name)
            }
            Value::Dict(dict) if dict.len() == 1 => {
                visitor.visit_enum(MapAccessDeserializer::new(Map::new(dict)))
            }
            other => Err(de::Error::custom(format!(
                "a {} is not an enum variant: expected a string or a dict with one entry",
                other.type_name()
            ))),
        }
    }

    /// Without visiting it: what is shared at many levels occurs more often than could be visited.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier
    }
}

struct Seq<'a> {
    items: std::slice::Iter<'a, Value>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Seq<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(FromValue(item))
            .map(Some)
            .map_err(|error| under(&index.to_string(), error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Map<'a> {
    entries: std::slice::Iter<'a, (Value, Value)>,
    current: Option<(String, &'a Value)>,
}

impl<'a> Map<'a> {
    fn new(dict: &'a Dict) -> Self {
        Self { entries: dict.entries.iter(), current: None }
    }
}

impl<'de> de::MapAccess<'de> for Map<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let text = match key.resolved() {
            Value::Str(text) => text.clone(),
            Value::Int(int) => int.to_string(),
            other => other.type_name().to_owned(),
        };
        self.current = Some((text, value));
        seed.deserialize(FromValue(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let Some((key, value)) = self.current.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(FromValue(value)).map_err(|error| under(&key, error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::value::to_value;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct All {
        count: u64,
        huge: u128,
        negative: i8,
        ratio: f32,
        name: String,
        note: Option<String>,
        none: Option<u8>,
        pair: (i32, bool),
        list: Vec<Kind>,
        by_depth: BTreeMap<i32, f64>,
        unit: (),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Plain,
        One(i32),
        Two(i32, i32),
        Named { x: f64 },
    }

    #[test]
    fn a_struct_comes_back_as_it_went_in() {
        let all = All {
            count: u64::MAX,
            huge: u128::MAX,
            negative: -1,
            ratio: 0.1,
            name: "π".into(),
            note: Some("n".into()),
            none: None,
            pair: (-7, true),
            list: vec![Kind::Plain, Kind::One(1), Kind::Two(1, 2), Kind::Named { x: 0.5 }],
            by_depth: [(4, 0.25), (-1, 1.0)].into(),
            unit: (),
        };
        assert_eq!(from_value::<All>(&to_value(&all).unwrap()).unwrap(), all);
    }

    #[test]
    fn an_error_names_the_path() {
        #[derive(Debug, Deserialize)]
        struct Outer {
            #[allow(dead_code)]
            inner: Vec<BTreeMap<String, u8>>,
        }
        let map: Dict = [("x", 300)].into_iter().collect();
        let list = Value::List(vec![Value::Dict(map)]);
        let tree = Value::Dict([("inner", list)].into_iter().collect());
        let error = from_value::<Outer>(&tree).unwrap_err().to_string();
        assert!(error.starts_with("at `inner.0.x`: "), "{error}");
    }
}
