//! Rust values into the state tree, through serde.

use serde::ser::{self, Serialize};

use super::{BigInt, Dict, Value, join};
use crate::error::{Error, Result};

/// Turns a Rust value into a state tree.
///
/// Structs and maps become dictionaries, sequences lists, tuples tuples, `None` and `()` Python's
/// `None`, enums their name or a dictionary of one entry, as in JSON.
///
/// # Errors
/// [`Error::Conversion`] if a value has no counterpart, with its path.
///
/// ```
/// use scai_checkpoint::value::{from_value, to_value};
///
/// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
/// struct Stats {
///     total_iterations: u64,
///     losses: Vec<f64>,
/// }
///
/// let stats = Stats { total_iterations: 100, losses: vec![0.5, 0.25] };
/// let tree = to_value(&stats)?;
/// assert_eq!(from_value::<Stats>(&tree)?, stats);
/// # Ok::<(), scai_checkpoint::Error>(())
/// ```
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value> {
    value.serialize(ToValue)
}

struct ToValue;

impl ser::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error::Conversion { at: String::new(), detail: message.to_string() }
    }
}

/// Puts `key` in front of the path of a conversion error.
pub(super) fn under(key: &str, error: Error) -> Error {
    match error {
        Error::Conversion { at, detail } if at.is_empty() => {
            Error::Conversion { at: key.to_owned(), detail }
        }
        Error::Conversion { at, detail } => Error::Conversion { at: join(key, &at), detail },
        other => other,
    }
}

fn variant(name: &str, value: Value) -> Value {
    Value::Dict([(name, value)].into_iter().collect())
}

impl ser::Serializer for ToValue {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Entries;
    type SerializeStruct = Entries;
    type SerializeStructVariant = Entries;

    fn serialize_bool(self, v: bool) -> Result<Value> {
        Ok(Value::Bool(v))
    }
    fn serialize_i8(self, v: i8) -> Result<Value> {
        Ok(Value::Int(v.into()))
    }
    fn serialize_i16(self, v: i16) -> Result<Value> {
        Ok(Value::Int(v.into()))
    }
    fn serialize_i32(self, v: i32) -> Result<Value> {
        Ok(Value::Int(v.into()))
    }
    fn serialize_i64(self, v: i64) -> Result<Value> {
        Ok(Value::Int(v))
    }
    fn serialize_i128(self, v: i128) -> Result<Value> {
        Ok(BigInt::from(v).into_value())
    }
    fn serialize_u8(self, v: u8) -> Result<Value> {
        Ok(Value::Int(v.into()))
    }
    fn serialize_u16(self, v: u16) -> Result<Value> {
        Ok(Value::Int(v.into()))
    }
    fn serialize_u32(self, v: u32) -> Result<Value> {
        Ok(Value::Int(v.into()))
    }
    fn serialize_u64(self, v: u64) -> Result<Value> {
        Ok(v.into())
    }
    fn serialize_u128(self, v: u128) -> Result<Value> {
        Ok(BigInt::from(v).into_value())
    }
    fn serialize_f32(self, v: f32) -> Result<Value> {
        Ok(Value::Float(v.into()))
    }
    fn serialize_f64(self, v: f64) -> Result<Value> {
        Ok(Value::Float(v))
    }
    fn serialize_char(self, v: char) -> Result<Value> {
        Ok(Value::Str(v.into()))
    }
    fn serialize_str(self, v: &str) -> Result<Value> {
        Ok(Value::Str(v.into()))
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<Value> {
        Ok(Value::Bytes(v.into()))
    }
    fn serialize_none(self) -> Result<Value> {
        Ok(Value::None)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Value> {
        Ok(Value::None)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Value> {
        Ok(Value::None)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<Value> {
        Ok(Value::Str(name.into()))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Value> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<Value> {
        Ok(variant(name, value.serialize(ToValue).map_err(|error| under(name, error))?))
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Items> {
        Ok(Items { items: Vec::new(), kind: ItemsKind::List })
    }
    fn serialize_tuple(self, _: usize) -> Result<Items> {
        Ok(Items { items: Vec::new(), kind: ItemsKind::Tuple })
    }
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Items> {
        self.serialize_tuple(len)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Items> {
        Ok(Items { items: Vec::new(), kind: ItemsKind::Variant(name) })
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Entries> {
        Ok(Entries { dict: Dict::new(), key: None, variant: None })
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries> {
        self.serialize_map(None)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Entries> {
        Ok(Entries { dict: Dict::new(), key: None, variant: Some(name) })
    }
}

enum ItemsKind {
    List,
    Tuple,
    Variant(&'static str),
}

pub(super) struct Items {
    items: Vec<Value>,
    kind: ItemsKind,
}

impl Items {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let item = value
            .serialize(ToValue)
            .map_err(|error| under(&self.items.len().to_string(), error))?;
        self.items.push(item);
        Ok(())
    }

    fn finish(self) -> Value {
        match self.kind {
            ItemsKind::List => Value::List(self.items),
            ItemsKind::Tuple => Value::Tuple(self.items),
            ItemsKind::Variant(name) => variant(name, Value::Tuple(self.items)),
        }
    }
}

macro_rules! items {
    ($($trait:ident :: $method:ident),*) => {
        $(impl ser::$trait for Items {
            type Ok = Value;
            type Error = Error;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.push(value)
            }
            fn end(self) -> Result<Value> {
                Ok(self.finish())
            }
        })*
    };
}

items! {
    SerializeSeq::serialize_element, SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field, SerializeTupleVariant::serialize_field
}

pub(super) struct Entries {
    dict: Dict,
    key: Option<Value>,
    variant: Option<&'static str>,
}

impl Entries {
    fn finish(self) -> Value {
        match self.variant {
            Some(name) => variant(name, Value::Dict(self.dict)),
            None => Value::Dict(self.dict),
        }
    }
}

impl ser::SerializeMap for Entries {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.key = Some(key.serialize(ToValue)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let key = self.key.take().unwrap_or(Value::None);
        let value =
            value.serialize(ToValue).map_err(|error| under(key.as_str().unwrap_or("?"), error))?;
        self.dict.entries.push((key, value));
        Ok(())
    }

    fn end(self) -> Result<Value> {
        Ok(self.finish())
    }
}

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Entries {
            type Ok = Value;
            type Error = Error;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<()> {
                let value = value.serialize(ToValue).map_err(|error| under(key, error))?;
                self.dict.entries.push((Value::Str(key.into()), value));
                Ok(())
            }
            fn end(self) -> Result<Value> {
                Ok(self.finish())
            }
        })*
    };
}

fields! { SerializeStruct, SerializeStructVariant }
