//! Integers that do not fit into 64 bits.

use std::fmt;
use std::str::FromStr;

use num_bigint::BigInt as Inner;

use super::Value;
use crate::error::{Error, Result};

/// An integer of any length, as in Python.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BigInt(pub(crate) Inner);

impl BigInt {
    /// The integer of these bytes in two's complement, the lowest first.
    pub fn from_signed_bytes_le(bytes: &[u8]) -> Self {
        Self(Inner::from_signed_bytes_le(bytes))
    }

    /// The bytes in two's complement, the lowest first, as few as possible.
    pub fn to_signed_bytes_le(&self) -> Vec<u8> {
        self.0.to_signed_bytes_le()
    }

    /// The integer of hexadecimal digits, with a sign if it is negative; `None` if it is not one.
    pub fn from_hex(digits: &str) -> Option<Self> {
        Inner::parse_bytes(digits.as_bytes(), 16).map(Self)
    }

    /// Hexadecimal digits, with a sign if it is negative.
    pub fn to_hex(&self) -> String {
        self.0.to_str_radix(16)
    }

    /// An integer of 64 bits if it fits into one.
    pub(crate) fn into_value(self) -> Value {
        i64::try_from(&self.0).map_or_else(|_| Value::BigInt(self), Value::Int)
    }

    /// How many bits its magnitude takes.
    pub fn bits(&self) -> u64 {
        self.0.bits()
    }
}

impl From<u128> for BigInt {
    fn from(int: u128) -> Self {
        Self(int.into())
    }
}

impl From<i128> for BigInt {
    fn from(int: i128) -> Self {
        Self(int.into())
    }
}

impl FromStr for BigInt {
    type Err = Error;

    /// Parses decimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.parse().map(Self);
        parsed.map_err(|_| {
            Error::invalid(format!("`{}` is not an integer", crate::error::shown(text)))
        })
    }
}

impl fmt::Display for BigInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BigInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
