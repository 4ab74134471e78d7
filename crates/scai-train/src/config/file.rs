//! The text of a file.

use std::io::Read;
use std::path::Path;

use super::error::{ConfigError, Problem};

/// Settings take 4 KiB. A checkpoint given by mistake is not read to its end.
const LONGEST: u64 = 1 << 20;

#[expect(clippy::disallowed_types, reason = "settings are read once, and are no checkpoint")]
pub(super) fn read(path: &Path, name: &str) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    read.map_err(|source| ConfigError::Unreadable { name: name.to_owned(), source })?;
    let refused = |message: &str| ConfigError::Invalid {
        name: name.to_owned(),
        problems: vec![Problem { line: None, column: None, message: message.to_owned() }],
    };
    if bytes.len() as u64 > LONGEST {
        return Err(refused("longer than 1 MiB; pass the YAML file with the settings"));
    }
    String::from_utf8(bytes)
        .map_err(|_| refused("not text in UTF-8; pass the YAML file with the settings"))
}
