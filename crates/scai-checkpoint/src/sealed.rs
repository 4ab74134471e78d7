//! JSON records that end with the digest of all bytes before it.

use twox_hash::XxHash3_128;

const BEFORE: &str = ",\n  ";
const NAME: &str = "\"digest\": \"";
const AFTER: &str = "\"\n}\n";
pub(crate) const DIGITS: usize = 32;

/// A pretty-printed JSON object with its digest as its last member.
pub(crate) fn seal(json: &str) -> Vec<u8> {
    let mut head = json.trim_end_matches(['\n', '}']).to_owned();
    // The braces of the last member are not those of the record.
    if json.ends_with("}\n}") {
        head.push('}');
    }
    head.push_str(BEFORE);
    let digest = digest(head.as_bytes());
    format!("{head}{NAME}{digest}{AFTER}").into_bytes()
}

/// Checks the digest of a record; what is wrong with it otherwise.
pub(crate) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let tail = NAME.len() + DIGITS + AFTER.len();
    let head = bytes.len().checked_sub(tail).ok_or("the file is too short")?;
    let (head, tail) = bytes.split_at(head);
    let expected = format!("{NAME}{}{AFTER}", digest(head));
    if tail == expected.as_bytes() {
        Ok(())
    } else {
        Err("the record does not match its own digest")
    }
}

/// The XXH3-128 digest, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}
