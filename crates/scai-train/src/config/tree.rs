//! The file as a tree in which every key and value has its line.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::{
    DuplicateKeyPolicy, Location, NonFiniteFloatPolicy, Spanned, UserMessageFormatter,
};

use super::error::Problem;

/// A value and its location.
pub(super) type Node = Spanned<Content>;

/// What a file can say.
#[derive(Debug)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Int(i64),
    /// Only for values that are too large for `Int`.
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// Keys may occur twice: the reader detects that and knows the path.
    Map(Vec<(Spanned<String>, Node)>),
}

/// Reads YAML 1.2. A file without content is `Null`.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location();
        let mut message = error.render_with_formatter(&UserMessageFormatter);
        if let Some(place) = place {
            // The location is shown before the message.
            let end = format!(" at line {}, column {}", place.line(), place.column());
            message.truncate(message.strip_suffix(&end).unwrap_or(&message).len());
        }
        if message.contains("tab") {
            message.push_str("; indent with spaces");
        }
        Problem {
            line: place.map(|place| place.line()),
            column: place.map(|place| place.column()),
            message: format!("not valid YAML: {message}"),
        }
    })
}

/// The location of a value; `None` if it does not come from a file.
pub(super) fn line_and_column(place: Location) -> Option<(u64, u64)> {
    (place != Location::UNKNOWN).then(|| (place.line(), place.column()))
}

/// A value that does not come from a file.
pub(super) fn without_place<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Location::UNKNOWN, Location::UNKNOWN)
}

impl Content {
    /// Overrides these values with those of `other`, mapping by mapping.
    pub(super) fn overlay(&mut self, other: Self) {
        match (self, other) {
            (Self::Map(entries), Self::Map(others)) => {
                for (key, node) in others {
                    match entries.iter_mut().find(|(name, _)| name.value == key.value) {
                        Some((_, under)) => under.value.overlay(node.value),
                        None => entries.push((key, node)),
                    }
                }
            }
            (under, other) => *under = other,
        }
    }

    /// The value under a path of keys.
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        let (key, rest) =
            path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
        let Self::Map(entries) = self else { return None };
        let (_, node) = entries.iter().find(|(name, _)| name.value == key)?;
        rest.map_or(Some(node), |rest| node.value.get(rest))
    }

    /// Takes out an entry by its position in each mapping on the way.
    pub(super) fn remove(&mut self, path: &[usize]) {
        match (self, path) {
            (Self::Map(entries), [last]) if *last < entries.len() => drop(entries.remove(*last)),
            (Self::Map(entries), [first, rest @ ..]) => {
                if let Some((_, node)) = entries.get_mut(*first) {
                    node.value.remove(rest);
                }
            }
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Content;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
                Ok(Content::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
                Ok(Content::Int(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
                Ok(i64::try_from(value).map_or(Content::Unsigned(value), Content::Int))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
                Ok(Content::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Content, E> {
                Ok(Content::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element()? {
                    nodes.push(node);
                }
                Ok(Content::List(nodes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Content::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl From<&Json> for Content {
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) => Self::Unsigned(value),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text.clone()),
            Json::Array(items) => {
                Self::List(items.iter().map(|item| without_place(item.into())).collect())
            }
            Json::Object(entries) => Self::Map(
                entries
                    .iter()
                    .map(|(key, value)| (without_place(key.clone()), without_place(value.into())))
                    .collect(),
            ),
        }
    }
}

impl<'a> From<&'a Content> for de::Unexpected<'a> {
    fn from(content: &'a Content) -> Self {
        match content {
            Content::Null => Self::Unit,
            Content::Bool(value) => Self::Bool(*value),
            Content::Int(value) => Self::Signed(*value),
            Content::Unsigned(value) => Self::Unsigned(*value),
            Content::Float(value) => Self::Float(*value),
            Content::Text(text) => Self::Str(text),
            Content::List(_) => Self::Seq,
            Content::Map(_) => Self::Map,
        }
    }
}
