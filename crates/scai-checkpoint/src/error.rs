//! What can go wrong, named by what the caller can do about it.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::dtype::UnknownDType;
use crate::report::LoadReport;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in a checkpoint something was found: file, record, tensor, byte range.
///
/// Each layer adds what it knows: the codec the record and the bytes, the state tree the
/// tensor, the manager the path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, as the caller named it.
    pub path: Option<PathBuf>,
    /// The record inside the file, such as `data/17`.
    pub record: Option<String>,
    /// The tensor's path in the state tree, such as `model_state_dict.conv1.weight`.
    pub tensor: Option<String>,
    /// The affected bytes of the file.
    pub bytes: Option<Range<u64>>,
}

impl Place {
    /// A location inside the record `name`.
    pub fn record(name: impl Into<String>) -> Self {
        Self { record: Some(name.into()), ..Self::default() }
    }

    /// The same location, narrowed to a byte range of the file.
    #[must_use]
    pub fn bytes(mut self, bytes: Range<u64>) -> Self {
        self.bytes = Some(bytes);
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut part = |text: fmt::Arguments<'_>| write!(f, "{text}: ");
        if let Some(path) = &self.path {
            part(format_args!("checkpoint `{}`", path.display()))?;
        }
        let names = (self.tensor.as_deref().map(shown), self.record.as_deref().map(shown));
        match names {
            (Some(tensor), Some(record)) if tensor != record => {
                part(format_args!("tensor `{tensor}` (record `{record}`)"))?;
            }
            (Some(tensor), _) => part(format_args!("tensor `{tensor}`"))?,
            (None, Some(record)) => part(format_args!("record `{record}`"))?,
            (None, None) => {}
        }
        if let Some(bytes) = &self.bytes {
            part(format_args!("bytes {}..{}", bytes.start, bytes.end))?;
        }
        Ok(())
    }
}

/// A name from a file, safe to show: control characters are escaped, long names are cut.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown = String::new();
    for (i, c) in name.chars().enumerate() {
        match c {
            _ if i == LONGEST => {
                shown.push('…');
                break;
            }
            '\'' | '"' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// An error of the checkpoint engine.
///
/// The variants are named by what the caller can do: look elsewhere ([`Error::NotFound`]), make
/// room ([`Error::DiskFull`]), fall back to an older checkpoint ([`Error::Damaged`]), change the
/// call ([`Error::Invalid`], [`Error::Mismatch`]), wait ([`Error::Locked`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such checkpoint.
    #[error("checkpoint `{}` does not exist", path.display())]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The file system refused an operation.
    #[error("{place}cannot {action}: {source}")]
    Io {
        /// Where.
        place: Box<Place>,
        /// What was being done, as an infinitive ("write", "rename to its final name").
        action: &'static str,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// There is no room for the file: the disk is full, a quota is used up, or files may not be
    /// that large. Nothing that existed before was touched.
    #[error(
        "checkpoint `{path}`: no space: {needed} bytes are needed{}; existing checkpoints are \
         untouched; {} ({source})",
        free.map(|free| format!(", {free} are free")).unwrap_or_default(),
        make_room(source, *needed, *free)
    )]
    DiskFull {
        /// The checkpoint that was being written.
        path: PathBuf,
        /// Bytes the whole file takes.
        needed: u64,
        /// Bytes that were free, if the file system reports it.
        free: Option<u64>,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The file was written and has its name, but the name could not be made durable.
    ///
    /// After a power loss there may be the new file or the one it replaced, complete in either
    /// case. The save is not acknowledged.
    #[error(
        "checkpoint `{path}`: written, but it may be lost in a power failure, because its \
         directory could not be synced; check the disk and save again ({source})"
    )]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not the bytes that were saved, or are not a valid file: use another checkpoint.
    #[error("{place}{detail}")]
    Damaged {
        /// Where.
        place: Box<Place>,
        /// What is wrong there.
        detail: String,
    },
    /// The memory of a tensor was changed while it was being saved. Nothing was published.
    #[error(
        "{place}its memory was changed, moved or freed while it was being saved; nothing was \
         published, and existing checkpoints are untouched"
    )]
    Changed {
        /// The tensor.
        place: Box<Place>,
    },
    /// The file carries no checksum at all, so damage could not be detected.
    #[error(
        "{place}the file has no checksums, so damage cannot be detected; to read it anyway, allow \
         unprotected files (`--allow-unprotected`; `allow_unprotected=True` of `CheckpointManager` \
         and `scai.load`), and save it again with scai"
    )]
    Unprotected {
        /// Where.
        place: Box<Place>,
    },
    /// The file is sound but holds something this crate does not read or write.
    #[error("{place}{what}; {hint}")]
    Unsupported {
        /// Where.
        place: Box<Place>,
        /// The thing, by name.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The file is sound, but objects in it can be made only by running code that it names, which
    /// is never done here.
    #[error("{place}loading this file would require running code ({names}); {hint}")]
    NeedsCode {
        /// Where.
        place: Box<Place>,
        /// The classes and functions it refers to, separated by commas.
        names: String,
        /// What to do.
        hint: String,
    },
    /// The file is sound as far as it was read, and is not a checkpoint.
    #[error("{place}not a checkpoint: {what}; {hint}")]
    NotACheckpoint {
        /// Where.
        place: Box<Place>,
        /// What it is instead, or how it differs from a checkpoint.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The memory that is needed could not be allocated. Nothing was changed or published.
    #[error("{place}out of memory: {bytes} bytes are needed to {action}")]
    OutOfMemory {
        /// Where.
        place: Box<Place>,
        /// The allocation that failed, in bytes.
        bytes: u64,
        /// What it was for, as an infinitive.
        action: &'static str,
    },
    /// A checkpoint lacks a field that the call needs.
    #[error("{place}the field `{field}` is missing; the fields are: {present}")]
    MissingField {
        /// Where.
        place: Box<Place>,
        /// The field that is missing.
        field: String,
        /// The fields that are there, separated by commas.
        present: String,
    },
    /// A strict load found names, shapes or dtypes that do not match. Nothing was changed.
    #[error("{place}the state does not match, and nothing was loaded\n{report}")]
    Mismatch {
        /// Where.
        place: Box<Place>,
        /// What matches and what does not.
        report: Box<LoadReport>,
    },
    /// Another process is writing to the same directory.
    #[error(
        "`{path}` is in use by another writer{}; wait for it to end, or save to another directory",
        holder.as_ref().map(|holder| format!(" ({holder})")).unwrap_or_default()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who holds it, if known.
        holder: Option<String>,
    },
    /// Every checkpoint of a directory was tried, and none can be resumed from.
    #[error("no checkpoint in `{path}` can be resumed from{}", list_skipped(skipped))]
    NothingToResume {
        /// The directory.
        path: PathBuf,
        /// What was tried, newest first, and why it was skipped.
        skipped: Vec<(String, String)>,
    },
    /// The caller cancelled the operation. Nothing was changed.
    #[error("cancelled")]
    Cancelled,
    /// An argument or a value cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// A value does not fit the Rust type it is converted to or from.
    #[error("at `{at}`: {detail}")]
    Conversion {
        /// The path in the state tree.
        at: String,
        /// What does not fit.
        detail: String,
    },
    /// A save in the background failed; this call was not carried out.
    #[error("an earlier background save failed: {0}")]
    Background(#[source] Arc<Error>),
}

impl From<UnknownDType> for Error {
    fn from(error: UnknownDType) -> Self {
        Self::invalid(error.to_string())
    }
}

fn make_room(source: &std::io::Error, needed: u64, free: Option<u64>) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull if free.is_some_and(|free| free >= needed) => {
            "the file system may be out of inodes (`df -i`): remove some files"
        }
        std::io::ErrorKind::QuotaExceeded => "raise the quota, or keep fewer checkpoints",
        std::io::ErrorKind::FileTooLarge => {
            "raise the limit on the size of files (`ulimit -f`), or save to another file system"
        }
        _ => "free some space, or keep fewer checkpoints",
    }
}

fn list_skipped(skipped: &[(String, String)]) -> String {
    skipped.iter().map(|(name, why)| format!("\n  {name}: {why}")).collect()
}

/// The location of an error, borrowed as the error is.
macro_rules! place_of {
    ($error:expr) => {
        match $error {
            Error::Io { place, .. }
            | Error::Damaged { place, .. }
            | Error::Changed { place }
            | Error::Unprotected { place }
            | Error::Unsupported { place, .. }
            | Error::NeedsCode { place, .. }
            | Error::NotACheckpoint { place, .. }
            | Error::OutOfMemory { place, .. }
            | Error::MissingField { place, .. }
            | Error::Mismatch { place, .. } => Some(place),
            _ => None,
        }
    };
}

impl Error {
    pub(crate) fn damaged(place: Place, detail: impl Into<String>) -> Self {
        Self::Damaged { place: Box::new(place), detail: detail.into() }
    }

    pub(crate) fn unsupported(
        place: Place,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Unsupported { place: Box::new(place), what: what.into(), hint: hint.into() }
    }

    pub(crate) fn needs_code(
        place: Place,
        names: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::NeedsCode { place: Box::new(place), names: names.into(), hint: hint.into() }
    }

    pub(crate) fn not_a_checkpoint(
        place: Place,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::NotACheckpoint { place: Box::new(place), what: what.into(), hint: hint.into() }
    }

    pub(crate) fn out_of_memory(action: &'static str, bytes: u64) -> Self {
        Self::OutOfMemory { place: Box::default(), bytes, action }
    }

    /// A load that does not match.
    pub fn mismatch(report: LoadReport) -> Self {
        Self::Mismatch { place: Box::default(), report: Box::new(report) }
    }

    /// An operation that a file system or a store refused: `action` is an infinitive, such as "write".
    pub fn io(action: &'static str, source: std::io::Error) -> Self {
        Self::Io { place: Box::default(), action, source }
    }

    /// An operation on `path` that a file system refused.
    pub(crate) fn of_path(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        match source.kind() {
            std::io::ErrorKind::NotFound => Self::NotFound { path: path.into() },
            _ => Self::io(action, source).at_path(path),
        }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    fn place_mut(&mut self) -> Option<&mut Place> {
        place_of!(self).map(|place| &mut **place)
    }

    /// The location of the error, if it has one.
    pub fn place(&self) -> Option<&Place> {
        place_of!(self).map(|place| &**place)
    }

    /// Adds the path of the file, unless a layer below already named one.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<PathBuf>) -> Self {
        if let Some(place) = self.place_mut() {
            place.path.get_or_insert_with(|| path.into());
        }
        self
    }

    /// The same error without the file's path, for messages that name it already.
    #[must_use]
    pub fn without_path(mut self) -> Self {
        if let Some(place) = self.place_mut() {
            place.path = None;
        }
        self
    }

    /// The same error in a file that has the other one from `offset` on.
    #[must_use]
    pub(crate) fn shifted(mut self, offset: u64) -> Self {
        if let Some(bytes) = self.place_mut().and_then(|place| place.bytes.as_mut()) {
            *bytes = bytes.start.saturating_add(offset)..bytes.end.saturating_add(offset);
        }
        self
    }

    /// Adds which of several files it is in.
    #[must_use]
    pub(crate) fn in_part(mut self, part: &str) -> Self {
        if let Some(place) = self.place_mut() {
            place.record = Some(match place.record.take() {
                Some(record) => format!("{part}: {record}"),
                None => part.to_owned(),
            });
        }
        self
    }

    /// Adds the name of the tensor, unless a layer below already named one.
    #[must_use]
    pub fn at_tensor(mut self, tensor: impl Into<String>) -> Self {
        if let Some(place) = self.place_mut() {
            place.tensor.get_or_insert_with(|| tensor.into());
        }
        self
    }

    /// Puts the path of the value in which a tensor was found before the tensor's name.
    #[must_use]
    pub fn below(mut self, path: &str) -> Self {
        if let Some(tensor) = self.place_mut().and_then(|place| place.tensor.as_mut())
            && !path.is_empty()
        {
            *tensor = if tensor.is_empty() { path.to_owned() } else { format!("{path}.{tensor}") };
        }
        self
    }

    /// Whether the bytes are not those that were written: an older checkpoint should be tried. A
    /// sound file that cannot be read is not damaged ([`Error::is_obstacle`]).
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Whether the file may be sound but this program cannot build a state from it: it needs code,
    /// is not a checkpoint, holds something unknown, or needs more memory than there is.
    pub fn is_obstacle(&self) -> bool {
        matches!(
            self,
            Self::Unsupported { .. }
                | Self::NeedsCode { .. }
                | Self::NotACheckpoint { .. }
                | Self::MissingField { .. }
                | Self::OutOfMemory { .. }
        )
    }
}
