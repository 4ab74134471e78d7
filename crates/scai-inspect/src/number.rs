//! Numbers as they are in JSON.

use std::fmt;

use serde::{Serialize, Serializer};

/// An element of a tensor, exact: not every integer is a float.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer or a truth value.
    Int(i128),
    /// A real number.
    Float(f64),
}

impl Number {
    /// The number as a float, rounded if it is a large integer.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => int.fmt(f),
            Self::Float(float) => match not_finite(*float) {
                Some(name) => f.write_str(name),
                None => float.fmt(f),
            },
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Float(float) => serialize_float(float, serializer),
            Self::Int(int) => match (i64::try_from(int), u64::try_from(int)) {
                (Ok(int), _) => serializer.serialize_i64(int),
                (_, Ok(int)) => serializer.serialize_u64(int),
                _ => serializer.collect_str(&int),
            },
        }
    }
}

/// What JSON says instead of a float that it does not have.
pub(crate) fn not_finite(float: f64) -> Option<&'static str> {
    match float {
        _ if float.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

fn serialize_float<S: Serializer>(float: f64, serializer: S) -> Result<S::Ok, S::Error> {
    match not_finite(float) {
        Some(name) => serializer.serialize_str(name),
        None => serializer.serialize_f64(float),
    }
}

/// For fields: a float that may be unknown.
pub(crate) fn optional_float<S: Serializer>(
    float: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match float {
        Some(float) => serialize_float(*float, serializer),
        None => serializer.serialize_none(),
    }
}
