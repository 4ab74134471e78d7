//! What a file holds.

mod entries;

use scai_checkpoint::codec::{Format, Protection};
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{Error, Result, Value};
use serde::Serialize;

use crate::{Distributed, File, Totals};

pub use entries::Entry;

/// Which part of a file is shown, and how deep.
///
/// ```
/// use scai_inspect::show::Options;
///
/// let options = Options::default().part("model_state_dict").depth(2).with_stats();
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    part: &'a str,
    depth: Option<usize>,
    stats: bool,
    shards: bool,
    read: ReadOptions<'a>,
}

impl<'a> Options<'a> {
    /// The path of the part that is shown; the whole file if this is not called.
    #[must_use]
    pub fn part(self, path: &'a str) -> Self {
        Self { part: path, ..self }
    }

    /// Levels of the tree that are shown; all if this is not called.
    #[must_use]
    pub fn depth(self, levels: usize) -> Self {
        Self { depth: Some(levels), ..self }
    }

    /// Reads the tensors and computes their statistics.
    #[must_use]
    pub fn with_stats(self) -> Self {
        Self { stats: true, ..self }
    }

    /// Of a distributed checkpoint, also shows which file holds which part of the state.
    #[must_use]
    pub fn with_shards(self) -> Self {
        Self { shards: true, ..self }
    }

    /// How tensors are read: progress and cancellation.
    #[must_use]
    pub fn read(self, read: ReadOptions<'a>) -> Self {
        Self { read, ..self }
    }
}

/// What a file is, and what is in it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Summary<'a> {
    /// The path, as it was given.
    pub path: String,
    /// The format.
    pub format: Format,
    /// Bytes of the file.
    pub size: u64,
    /// What protects the file.
    pub protection: Protection,
    /// [`Protection::None`] if it was converted from a file without checksums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_protection: Option<Protection>,
    /// What is known of a distributed checkpoint besides its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distributed: Option<Distributed>,
    /// The iteration recorded in the file, if it is an integer.
    pub iteration: Option<i64>,
    /// When it was saved, if that is text.
    pub timestamp: Option<&'a str>,
    /// The tensors of `model_state_dict`.
    pub model: Option<Totals>,
    /// The tensors of `optimizer_state_dict`.
    pub optimizer: Option<Totals>,
    /// All tensors.
    pub total: Totals,
    /// The values, containers before what they hold. The requested part comes first; the file as a
    /// whole is not among them.
    pub entries: Vec<Entry<'a>>,
}

/// Describes the content of a file. Without statistics no tensor is read.
///
/// # Errors
/// [`Error::Invalid`] if there is no such part; those of reading; [`Error::Cancelled`].
pub fn show<'a>(file: &'a File, options: Options<'_>) -> Result<Summary<'a>> {
    let tree = file.tree()?;
    let part = tree
        .lookup(options.part)
        .ok_or_else(|| Error::Invalid(format!("there is no `{}` in the file", options.part)))?;
    let mut entries = entries::entries(part, options.part, options.depth.unwrap_or(usize::MAX));
    if options.stats {
        entries::measure(&mut entries, options.read)?;
    }
    let top = |key: &str| tree.as_dict().and_then(|dict| dict.get(key));
    Ok(Summary {
        path: file.path().display().to_string(),
        format: file.content().format(),
        size: file.content().len(),
        protection: file.content().protection(),
        source_protection: file.source_protection(),
        distributed: Distributed::of(file, options.shards),
        iteration: top("iteration").and_then(Value::as_int),
        timestamp: top("timestamp").and_then(Value::as_str),
        model: top("model_state_dict").map(Totals::of),
        optimizer: top("optimizer_state_dict").map(Totals::of),
        total: Totals::of(tree),
        entries,
    })
}
