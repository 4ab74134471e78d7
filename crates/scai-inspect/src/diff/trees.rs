//! How two state trees differ.

use std::collections::{HashMap, HashSet};

use scai_checkpoint::value::join;
use scai_checkpoint::{Result, Tensor, Value};

use super::tensors::{by_digests, compare};
use super::{Change, Depth, Options, What};

/// What was found in two trees.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    pub(super) changes: Vec<Change<'a>>,
    pub(super) equal_tensors: usize,
    pub(super) by_digest: usize,
    pub(super) laid_out_differently: usize,
    pub(super) ignored: usize,
    pub(super) bytes_read: u64,
}

/// Compares two trees.
///
/// # Errors
/// Those of reading tensors.
pub(super) fn trees<'a>(a: &'a Value, b: &'a Value, options: Options<'_>) -> Result<Found<'a>> {
    let mut walk = Walk { options, found: Found::default(), compared: HashSet::new() };
    walk.values("", a, b)?;
    Ok(walk.found)
}

struct Walk<'a, 'b> {
    options: Options<'b>,
    found: Found<'a>,
    /// Pairs of shared values that were compared.
    compared: HashSet<(usize, usize)>,
}

impl<'a> Walk<'a, '_> {
    fn values(&mut self, path: &str, a: &'a Value, b: &'a Value) -> Result<()> {
        if self.options.ignore.iter().any(|ignored| ignored == path) {
            self.found.ignored += 1;
            return Ok(());
        }
        let is_shared = a.shared_id().is_some() || b.shared_id().is_some();
        let (a, b) = (a.resolved(), b.resolved());
        let pair = (std::ptr::from_ref(a).addr(), std::ptr::from_ref(b).addr());
        // What both share is compared once, unless a part of it is left out here.
        let whole = !self.options.ignore.iter().any(|ignored| is_below(ignored, path));
        if is_shared && whole && !self.compared.insert(pair) {
            return Ok(());
        }
        match (a, b) {
            (Value::Tensor(a), Value::Tensor(b)) => return self.tensors(path, a, b),
            (Value::Storage(left, left_type), Value::Storage(right, right_type)) => {
                let same = left_type == right_type && left.len() == right.len();
                let known = left.digest().zip(right.digest()).map(|(left, right)| left == right);
                self.found.by_digest += usize::from(same && known == Some(true));
                if !(same && known.unwrap_or_else(|| a == b)) {
                    self.change(path, What::Value(a, b));
                }
                return Ok(());
            }
            (Value::Object(left), Value::Object(right)) if left.class != right.class => {
                self.change(path, What::Value(a, b));
                return Ok(());
            }
            _ => {}
        }
        let (left, right) = (keyed(a), keyed(b));
        if a.type_name() != b.type_name() {
            self.change(path, What::Value(a, b));
            // A dict that became an OrderedDict still has entries to compare.
            if left.is_empty() || right.is_empty() || a.as_dict().is_some() != b.as_dict().is_some()
            {
                return Ok(());
            }
        } else if left.is_empty() && right.is_empty() {
            if a != b {
                self.change(path, What::Value(a, b));
            }
            return Ok(());
        } else if let (Some(left), Some(right)) = (plain_items(a), plain_items(b)) {
            let differing = left.iter().zip(right).filter(|(left, right)| left != right).count();
            if differing > 0 || left.len() != right.len() {
                self.change(path, What::Items { a, b, differing });
            }
            return Ok(());
        }
        self.entries(path, &left, &right)
    }

    fn entries(
        &mut self,
        path: &str,
        left: &[(Key, &'a Value)],
        right: &[(Key, &'a Value)],
    ) -> Result<()> {
        let in_right: HashMap<&str, &'a Value> =
            right.iter().map(|(key, value)| (key.exact.as_str(), *value)).collect();
        let in_left: HashSet<&str> = left.iter().map(|(key, _)| key.exact.as_str()).collect();
        for (key, value) in left {
            let path = join(path, &key.text);
            match in_right.get(key.exact.as_str()) {
                Some(other) => self.values(&path, value, other)?,
                None => self.alone(path, What::Removed(value)),
            }
        }
        for (key, value) in right.iter().filter(|(key, _)| !in_left.contains(key.exact.as_str())) {
            self.alone(join(path, &key.text), What::Added(value));
        }
        Ok(())
    }

    fn tensors(&mut self, path: &str, a: &'a Tensor, b: &'a Tensor) -> Result<()> {
        if a.dtype() != b.dtype() || a.shape() != b.shape() {
            self.change(path, What::Form(a, b));
            return Ok(());
        }
        let known = by_digests(a, b);
        let difference = match known {
            Some(true) => None,
            Some(false) if self.options.depth != Depth::Values => Some(None),
            _ => {
                let compared = compare(a, b, self.options.read);
                let compared = compared.map_err(|error| error.at_tensor(path))?;
                self.found.bytes_read += compared.read;
                compared.difference.map(Some)
            }
        };
        self.found.by_digest += usize::from(known.is_some());
        match difference {
            Some(difference) => self.change(path, What::Elements(a, difference)),
            None if a.attributes() != b.attributes() => self.change(path, What::Attributes(a, b)),
            None => {
                self.found.equal_tensors += 1;
                self.found.laid_out_differently += usize::from(a.strides() != b.strides());
            }
        }
        Ok(())
    }

    fn alone(&mut self, path: String, what: What<'a>) {
        if self.options.ignore.contains(&path) {
            self.found.ignored += 1;
        } else {
            self.change(&path, what);
        }
    }

    fn change(&mut self, path: &str, what: What<'a>) {
        self.found.changes.push(Change { path: path.to_owned(), what });
    }
}

/// Whether a path leads to something below the other.
fn is_below(path: &str, above: &str) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('.'))
}

/// A key as it is in a path, and as it differs from others (`0` from `'0'`).
struct Key {
    text: String,
    exact: String,
}

/// The children by their keys; the attributes of an `OrderedDict` among them.
fn keyed(value: &Value) -> Vec<(Key, &Value)> {
    let Value::Dict(dict) = value.resolved() else {
        let children = value.children().into_iter();
        return children.map(|(text, child)| (Key { exact: text.clone(), text }, child)).collect();
    };
    let children = dict.children().into_iter().zip(&dict.entries);
    let attributes = dict.attributes.iter().flat_map(|attributes| attributes.children());
    children
        .map(|((text, child), (key, _))| {
            let exact = match key.resolved() {
                Value::Tuple(_) => format!("tuple {text}"),
                key => format!("{key:?}"),
            };
            (Key { text, exact }, child)
        })
        .chain(
            attributes
                .map(|(text, child)| (Key { exact: format!("attribute {text}"), text }, child)),
        )
        .collect()
}

/// The items of a list or tuple of plain values, which is compared as one value.
fn plain_items(value: &Value) -> Option<&[Value]> {
    let (Value::List(items) | Value::Tuple(items) | Value::Set(items)) = value.resolved() else {
        return None;
    };
    let plain = |item: &Value| {
        item.children().is_empty()
            && !matches!(item.resolved(), Value::Tensor(_) | Value::Storage(..))
    };
    items.iter().all(plain).then_some(items)
}
