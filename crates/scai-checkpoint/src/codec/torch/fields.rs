//! The statistics and metadata of a checkpoint that are short enough to be listed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::value::{Value, to_value};

/// Short values by name, in order: numbers, strings, booleans, and lists and mappings of them.
///
/// A number that JSON lacks, such as NaN, is a string. Serialises as a mapping.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fields(pub(super) Map<String, Json>);

impl Fields {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<Value> {
        to_value(self.0.get(name)?).ok()
    }

    /// The number of this name; 1 and 0 for true and false.
    pub fn number(&self, name: &str) -> Option<f64> {
        let value = self.0.get(name)?;
        value.as_f64().or_else(|| value.as_bool().map(f64::from))
    }

    /// The value of this name as JSON.
    pub fn json(&self, name: &str) -> Option<String> {
        self.0.get(name).map(Json::to_string)
    }
}
