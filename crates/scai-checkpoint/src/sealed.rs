//! JSON records that end with the digest of all bytes before it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use twox_hash::XxHash3_128;

use crate::error::{Error, Place, Result};

const BEFORE: &str = ",\n  ";
const NAME: &str = "\"digest\": \"";
const AFTER: &str = "\"\n}\n";
pub(crate) const DIGITS: usize = 32;

/// What a record holds.
pub(crate) trait Sealed: DeserializeOwned {
    /// The version in which it was written.
    fn version(&self) -> u32;
}

/// A record as pretty-printed JSON, with its digest as its last member.
pub(crate) fn seal(record: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_string_pretty(record).unwrap_or_default();
    let mut head = json.trim_end_matches(['\n', '}']).to_owned();
    // The braces of the last member are not those of the record.
    if json.ends_with("}\n}") {
        head.push('}');
    }
    head.push_str(BEFORE);
    let digest = digest(head.as_bytes());
    format!("{head}{NAME}{digest}{AFTER}").into_bytes()
}

/// A record of versions up to `newest`, which has a `version` and is called `what`.
///
/// # Errors
/// [`Error::Damaged`] if the bytes are not those that were written; [`Error::Unsupported`] if they are and
/// are not understood.
pub(crate) fn open<T: Sealed>(bytes: &[u8], what: &str, newest: u32) -> Result<T> {
    let damaged = |detail: String| Error::damaged(Place::default(), detail);
    let tail = NAME.len() + DIGITS + AFTER.len();
    let head = bytes.len().checked_sub(tail);
    let (head, tail) =
        bytes.split_at(head.ok_or_else(|| damaged("the file is too short".to_owned()))?);
    if tail != format!("{NAME}{}{AFTER}", digest(head)).as_bytes() {
        return Err(damaged(format!("the record of the {what} does not match its own digest")));
    }
    // These are the bytes that were written, so what is not understood is of a newer version.
    let newer = |found: String| {
        let hint = format!("this program reads versions up to {newest}; upgrade `scai`");
        Error::unsupported(Place::default(), found, hint)
    };
    let record: T = serde_json::from_slice(bytes)
        .map_err(|error| newer(format!("the {what} has an unknown form ({error})")))?;
    match record.version() {
        version if version > newest => Err(newer(format!("the {what} is of version {version}"))),
        _ => Ok(record),
    }
}

/// The XXH3-128 digest, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}
