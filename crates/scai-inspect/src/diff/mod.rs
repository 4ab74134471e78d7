//! How two files differ.

mod tensors;
mod trees;

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{Error, Result, Tensor, Value};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::by_name::needed;
use crate::json::to_json;
use crate::{File, Totals};

pub use tensors::TensorDifference;

/// How much is read to compare two files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Depth {
    /// Tensors are compared by the digests of what was saved, and read only if there are none:
    /// fast, but damage is not detected.
    Digests,
    /// Every byte of both files is checked first. Tensors that differ are named, but not measured.
    Names,
    /// Every byte of both files is checked first. Tensors that differ are read and measured.
    #[default]
    Values,
}

/// What is compared, and how.
///
/// ```
/// use scai_inspect::diff::{Depth, Options};
///
/// let ignore = ["timestamp".to_owned()];
/// let options = Options::default().ignore(&ignore).depth(Depth::Names);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    ignore: &'a [String],
    depth: Depth,
    read: ReadOptions<'a>,
}

impl<'a> Options<'a> {
    /// Leaves out the parts at these paths.
    #[must_use]
    pub fn ignore(self, paths: &'a [String]) -> Self {
        Self { ignore: paths, ..self }
    }

    /// How much is read; [`Depth::Values`] if this is not called.
    #[must_use]
    pub fn depth(self, depth: Depth) -> Self {
        Self { depth, ..self }
    }

    /// How files and tensors are read: threads, progress and cancellation. [`bytes_to_read`] is the
    /// upper bound of the progress.
    #[must_use]
    pub fn read(self, read: ReadOptions<'a>) -> Self {
        Self { read, ..self }
    }
}

/// How two files differ.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Difference<'a> {
    /// The path of the first, as it was given.
    pub a: String,
    /// The path of the second.
    pub b: String,
    /// Whether all that was compared is equal bit for bit; `None` if nothing differs, but some were
    /// compared only by digest.
    pub identical: Option<bool>,
    /// Every byte of both files was read and is what was saved.
    pub checked: bool,
    /// Tensors that both have and that are equal bit for bit.
    pub equal_tensors: usize,
    /// Tensors that were compared by digests alone.
    pub by_digest: usize,
    /// Bytes of tensors that were read to compare them.
    pub bytes_read: u64,
    /// Values that were left out.
    pub ignored: usize,
    /// What differs, in the order of the first file.
    pub changes: Vec<Change<'a>>,
    /// Equal tensors with different strides.
    #[serde(skip)]
    pub laid_out_differently: usize,
}

/// A difference at one path. It serialises with a `kind` and what both have there.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change<'a> {
    /// The path in the tree.
    pub path: String,
    /// What the difference is.
    pub what: What<'a>,
}

/// What the difference at one path is.
#[derive(Debug, Clone)]
pub enum What<'a> {
    /// Only in the first.
    Removed(&'a Value),
    /// Only in the second.
    Added(&'a Value),
    /// Values of different types, or of one type and different content.
    Value(&'a Value, &'a Value),
    /// Lists of plain values.
    Items {
        /// The first list.
        a: &'a Value,
        /// The second list.
        b: &'a Value,
        /// How many of the items that both have differ.
        differing: usize,
    },
    /// Tensors of different shapes or dtypes.
    Form(&'a Tensor, &'a Tensor),
    /// Tensors that are equal except for what PyTorch keeps beside the elements.
    Attributes(&'a Tensor, &'a Tensor),
    /// Tensors of one shape and dtype; how they differ, if that was measured.
    Elements(&'a Tensor, Option<TensorDifference>),
}

/// Compares two files. If one has the parameters of an optimizer by name and the other by number, they are
/// compared by name.
///
/// # Errors
/// [`Error::Invalid`] if neither has a part that is to be ignored; [`Error::Damaged`], unless only
/// digests are compared; those of reading; [`Error::Cancelled`].
pub fn diff<'a>(a: &'a File, b: &'a File, options: Options<'_>) -> Result<Difference<'a>> {
    let (left, right) = (a.tree()?, b.tree()?);
    let is_unknown = |path: &&String| left.lookup(path).or_else(|| right.lookup(path)).is_none();
    if let Some(unknown) = options.ignore.iter().find(is_unknown) {
        return Err(Error::Invalid(format!("there is no `{unknown}` in either file")));
    }
    let checked = options.depth != Depth::Digests;
    if checked {
        a.check(options.read)?;
        b.check(options.read)?;
    }
    let (name_left, name_right) = needed(left, right);
    let left = if name_left { a.named_tree()? } else { left };
    let right = if name_right { b.named_tree()? } else { right };
    let found = trees::trees(left, right, options)?;
    let equal = found.changes.is_empty();
    Ok(Difference {
        a: a.path().display().to_string(),
        b: b.path().display().to_string(),
        identical: (!equal || checked || found.by_digest == 0).then_some(equal),
        checked,
        equal_tensors: found.equal_tensors,
        by_digest: found.by_digest,
        bytes_read: found.bytes_read,
        ignored: found.ignored,
        changes: found.changes,
        laid_out_differently: found.laid_out_differently,
    })
}

/// The most bytes that comparing two files can read.
///
/// # Errors
/// As [`File::tree`].
pub fn bytes_to_read(a: &File, b: &File, depth: Depth) -> Result<u64> {
    let checked = if depth == Depth::Digests { 0 } else { a.content().len() + b.content().len() };
    let (left, right) = (Totals::of(a.tree()?).bytes, Totals::of(b.tree()?).bytes);
    Ok(checked.saturating_add(left.min(right).saturating_mul(2)))
}

/// A change as it is in JSON.
#[derive(Serialize)]
struct JsonChange<'a> {
    path: &'a str,
    /// `removed`, `added`, `type`, `value`, `items`, `form`, `attributes` or `elements`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Json::is_null")]
    a: Json,
    #[serde(skip_serializing_if = "Json::is_null")]
    b: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<&'a TensorDifference>,
}

impl Serialize for Change<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let brief = |tensor: &Tensor| {
            json!({
                "dtype": tensor.dtype().name(),
                "shape": tensor.shape(),
                "requires_grad": tensor.attributes().requires_grad,
                "parameter": tensor.attributes().parameter,
            })
        };
        let of_type = |value: &Value| json!({ "type": value.type_name(), "value": to_json(value) });
        let (kind, a, b) = match &self.what {
            What::Removed(value) => ("removed", of_type(value), Json::Null),
            What::Added(value) => ("added", Json::Null, of_type(value)),
            What::Value(a, b) if a.type_name() != b.type_name() => ("type", of_type(a), of_type(b)),
            What::Value(a, b) => ("value", of_type(a), of_type(b)),
            What::Items { a, b, .. } => ("items", of_type(a), of_type(b)),
            What::Form(a, b) => ("form", brief(a), brief(b)),
            What::Attributes(a, b) => ("attributes", brief(a), brief(b)),
            What::Elements(tensor, _) => ("elements", brief(tensor), brief(tensor)),
        };
        let difference = match &self.what {
            What::Elements(_, difference) => difference.as_ref(),
            _ => None,
        };
        JsonChange { path: &self.path, kind, a, b, difference }.serialize(serializer)
    }
}
