//! From the tree to the settings: serde, with errors that have the key and its location.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_saphyr::{Location, Spanned};

use super::error::Problem;
use super::tree::{Content, Node, line_and_column};

/// Why a value cannot be read, and where it is.
#[derive(Debug)]
pub(super) struct Fault {
    what: What,
    place: Option<Location>,
    /// The keys on the way to it, the last first.
    keys: Vec<String>,
    /// The position of each of these keys in its mapping.
    positions: Vec<usize>,
}

#[derive(Debug)]
enum What {
    UnknownKey(&'static [&'static str]),
    SecondKey(u64),
    Value(String),
}

impl Fault {
    /// The position of the entry in each mapping on the way; empty for the whole file.
    pub(super) fn positions(&self) -> Vec<usize> {
        self.positions.iter().rev().copied().collect()
    }

    /// The problem as reported to the user. `all_keys` are the paths of all keys that exist.
    pub(super) fn into_problem(self, all_keys: &[String]) -> Problem {
        let keys: Vec<&str> = self.keys.iter().rev().map(String::as_str).collect();
        let path = keys.join(".");
        let message = match self.what {
            What::UnknownKey(known) => {
                let key = keys.last().copied().unwrap_or_default();
                format!("`{path}` is not a key; {}", proposal(key, known, all_keys))
            }
            What::SecondKey(line) => {
                format!("`{path}` is set twice, first on line {line}; remove one of them")
            }
            What::Value(message) if path.is_empty() => message,
            What::Value(message) => format!("`{path}`: {message}"),
        };
        let (line, column) = self.place.and_then(line_and_column).unzip();
        Problem { line, column, message }
    }

    fn value(message: String) -> Self {
        Self { what: What::Value(message), place: None, keys: Vec::new(), positions: Vec::new() }
    }

    /// The same fault, at `place` unless it already has a location.
    pub(super) fn at(mut self, place: Location) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// The same fault, below a key.
    fn under(mut self, key: &str, position: usize) -> Self {
        self.keys.push(key.to_owned());
        self.positions.push(position);
        self
    }
}

/// What the user may have meant by a key.
fn proposal(key: &str, known: &[&str], all_keys: &[String]) -> String {
    if let Some(near) = nearest(key, known) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere = all_keys.iter().find(|path| path.rsplit('.').next() == Some(key));
    match elsewhere {
        Some(path) => format!("did you mean `{path}`?"),
        None => format!("the valid keys are {}", listed(known)),
    }
}

/// The name that resembles `word`, if any does.
fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    // Names less similar than this look unrelated; clap uses the same limit for arguments.
    const ALIKE: f64 = 0.7;
    let scored = names.iter().map(|name| (strsim::jaro_winkler(word, name), *name));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(alike, _)| *alike > ALIKE).map(|(_, name)| name)
}

/// "`a`, `b`, `c`".
fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let wanted = match expected.as_str() {
            "u64" | "usize" => "a whole number of 0 or more",
            "f64" => "a number",
            "a boolean" => "`true` or `false`",
            "a sequence" => "a list",
            other if other.starts_with("struct ") => "a mapping of keys",
            other => other,
        };
        let wanted = match found {
            Unexpected::Signed(..0) => wanted,
            _ => wanted.trim_end_matches(" of 0 or more"),
        };
        let quotes = match found {
            Unexpected::Bool(_) | Unexpected::Signed(_) | Unexpected::Float(_)
                if expected == "a string" =>
            {
                "; put it in quotes"
            }
            _ => "",
        };
        Self::value(format!("expected {wanted}, found {}{quotes}", named(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        let near = nearest(word, known).map(|near| format!("; did you mean `{near}`?"));
        Self::value(format!(
            "expected one of {}, found {}{}",
            listed(known),
            named(Unexpected::Str(word)),
            near.unwrap_or_default()
        ))
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self { what: What::UnknownKey(known), ..Self::value(String::new()) }
    }
}

/// A value in words.
fn named(found: Unexpected<'_>) -> String {
    // A block of text where a number is expected would fill the screen.
    const LONGEST: usize = 60;
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Float(value) => format!("{value:?}"),
        Unexpected::Str(text) if text.chars().count() > LONGEST => {
            format!("a string {:?}…", text.chars().take(LONGEST).collect::<String>())
        }
        Unexpected::Str(text) => format!("a string {text:?}"),
        Unexpected::Unit => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping of keys".to_owned(),
        other => other.to_string(),
    }
}

/// A node as a serde deserializer.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a Node);

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Content::Null => visitor.visit_unit(),
            Content::Bool(value) => visitor.visit_bool(*value),
            Content::Int(value) => visitor.visit_i64(*value),
            Content::Unsigned(value) => visitor.visit_u64(*value),
            Content::Float(value) => visitor.visit_f64(*value),
            Content::Text(text) => visitor.visit_str(text),
            Content::List(nodes) => visitor.visit_seq(Items(nodes.iter())),
            Content::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Content::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A section whose keys are all commented out is empty; a list is not a section, although serde
    /// would take its elements for the fields.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.value {
            Content::Null => visitor.visit_map(Entries { entries: &[], next: 0 }),
            Content::Map(_) => self.deserialize_any(visitor),
            other => Err(de::Error::invalid_type(other.into(), &visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.value {
            Content::Text(word) => visitor.visit_enum(StrDeserializer::new(word)),
            other => {
                let wanted = format!("one of {}", listed(variants));
                Err(de::Error::invalid_type(other.into(), &wanted.as_str()))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The elements of a list, one after the other.
struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.0.next() else { return Ok(None) };
        seed.deserialize(Reader(node)).map(Some).map_err(|fault| fault.at(node.referenced))
    }
}

/// The entries of a mapping, one after the other.
struct Entries<'a> {
    entries: &'a [(Spanned<String>, Node)],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        let mut earlier = self.entries.iter().take(self.next);
        let result = match earlier.find(|(name, _)| name.value == key.value) {
            Some((first, _)) => {
                let what = What::SecondKey(first.referenced.line());
                Err(Fault { what, ..Fault::value(String::new()) })
            }
            None => seed.deserialize(StrDeserializer::new(&key.value)).map(Some),
        };
        result.map_err(|fault| fault.at(key.referenced).under(&key.value, self.next))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let position = self.next;
        let Some((key, node)) = self.entries.get(position) else {
            return Err(Fault::value("a key without a value".to_owned()));
        };
        self.next += 1;
        seed.deserialize(Reader(node))
            .map_err(|fault| fault.at(node.referenced).under(&key.value, position))
    }
}
