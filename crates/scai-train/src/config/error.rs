//! What can be wrong with a configuration file.

use std::fmt;

/// Why the settings could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{name}: cannot be read: {source}")]
    Unreadable {
        /// The file, as the caller named it.
        name: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The file has invalid content: change it.
    #[error("{}", lines(name, problems))]
    Invalid {
        /// The file, as the caller named it.
        name: String,
        /// What is wrong, in the order of the file; at least one.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1 on; `None` if the problem has no location in the file.
    pub line: Option<u64>,
    /// The column, in characters from 1 on.
    pub column: Option<u64>,
    /// The key and what is wrong with it: "`training.save_interval`: expected a whole number".
    pub message: String,
}

/// One line for each problem: "config.yaml:7:18: ...".
fn lines(name: &str, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("{name}{problem}")).collect();
    lines.join("\n")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        write!(f, ": {}", self.message)
    }
}
