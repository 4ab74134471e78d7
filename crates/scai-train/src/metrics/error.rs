//! What can go wrong with logs. None of it needs to end training.

use std::path::PathBuf;

/// An error of the metrics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The file system refused an operation.
    #[error("log `{}`: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done, as an infinitive.
        action: &'static str,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A value has the name of a field that every line has: rename it.
    #[error(
        "a value cannot be called `{name}`: every line of the log already has a field of that name"
    )]
    Name {
        /// The name.
        name: String,
    },
}
