//! A value that is written as a number or as a word.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

/// The word for [`SaveInterval::Auto`].
const AUTO: &str = "auto";

/// How often a checkpoint is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveInterval {
    /// After every iteration that is a multiple of this; at least 1.
    Every(u64),
    /// `auto`: as often as `training.save_overhead` allows, from the measured times of saves and
    /// iterations.
    Auto,
}

impl Serialize for SaveInterval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Every(iterations) => serializer.serialize_u64(*iterations),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for SaveInterval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrWord;

        impl Visitor<'_> for NumberOrWord {
            type Value = SaveInterval;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number of 1 or more or `{AUTO}`")
            }

            fn visit_u64<E>(self, iterations: u64) -> Result<SaveInterval, E> {
                Ok(SaveInterval::Every(iterations))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<SaveInterval, E> {
                match u64::try_from(number) {
                    Ok(iterations) => Ok(SaveInterval::Every(iterations)),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<SaveInterval, E> {
                match word {
                    AUTO => Ok(SaveInterval::Auto),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(NumberOrWord)
    }
}
