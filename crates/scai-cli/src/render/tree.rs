//! The state tree as lines.

use std::collections::HashMap;

use scai_checkpoint::{Tensor, Value};

use super::{counted, flat_list, one_line, paint, scalar, size, style};
use crate::compute::totals::{View, totals, view};

/// Characters that a value takes at most.
const VALUE_WIDTH: usize = 56;

/// A line of the tree: a value and how it hangs together with the others.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// The path in the whole tree.
    pub(crate) path: String,
    pub(crate) value: &'a Value,
    /// The first tensor that is the same memory, seen in the same way.
    pub(crate) tied_to: Option<String>,
    /// The first tensor that sees the same memory in another way.
    pub(crate) shares_with: Option<String>,
    /// The first place of the container that is this very object; what it holds stands there.
    pub(crate) same_as: Option<String>,
    /// The lines that lead to it.
    guide: String,
    name: String,
}

/// The lines below `value`, which is at `path`, down to `depth` levels.
pub(crate) fn lines<'a>(value: &'a Value, path: &str, depth: usize) -> Vec<Line<'a>> {
    let mut lister = Lister {
        lines: Vec::new(),
        seen: HashMap::new(),
        storages: HashMap::new(),
        shared: HashMap::new(),
        deepest: depth,
    };
    lister.children(value, path, "", 0);
    lister.lines
}

struct Lister<'a> {
    lines: Vec<Line<'a>>,
    seen: HashMap<View<'a>, String>,
    /// The first tensor of each storage.
    storages: HashMap<usize, String>,
    /// The first place of each shared container.
    shared: HashMap<usize, String>,
    deepest: usize,
}

impl<'a> Lister<'a> {
    fn children(&mut self, value: &'a Value, path: &str, guide: &str, depth: usize) {
        let children = value.children();
        let last = children.len().saturating_sub(1);
        for (i, (name, child)) in children.into_iter().enumerate() {
            let (branch, trunk) = match (depth, i == last) {
                (0, _) => ("", ""),
                (_, false) => ("├─ ", "│  "),
                (_, true) => ("└─ ", "   "),
            };
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let (tied_to, shares_with) = match child.resolved() {
                Value::Tensor(tensor) if tensor.numel() > 0 => self.tie(tensor, &path),
                _ => (None, None),
            };
            let is_flat = flat_list(child, VALUE_WIDTH).is_some();
            let same_as = match child.shared_id() {
                Some(id) if !is_flat && !child.children().is_empty() => {
                    let first = self.shared.get(&id).cloned();
                    self.shared.entry(id).or_insert_with(|| path.clone());
                    first
                }
                _ => None,
            };
            let is_new = same_as.is_none();
            self.lines.push(Line {
                path: path.clone(),
                value: child,
                tied_to,
                shares_with,
                same_as,
                guide: format!("{guide}{branch}"),
                name,
            });
            if depth + 1 < self.deepest && !is_flat && is_new {
                self.children(child, &path, &format!("{guide}{trunk}"), depth + 1);
            }
        }
    }

    /// What was seen of the memory of a tensor before: the same tensor, another view.
    fn tie(&mut self, tensor: &'a Tensor, path: &str) -> (Option<String>, Option<String>) {
        if let Some(known) = self.seen.get(&view(tensor)) {
            return (Some(known.clone()), None);
        }
        self.seen.insert(view(tensor), path.to_owned());
        let id = tensor.storage().id();
        let known = self.storages.get(&id).cloned();
        self.storages.entry(id).or_insert_with(|| path.to_owned());
        (None, known)
    }
}

impl Line<'_> {
    /// Name, type, size, shape or value.
    pub(crate) fn cells(&self) -> [String; 4] {
        let name = match self.value.resolved() {
            Value::Dict(_) | Value::Object(_) => paint(style::BOLD, one_line(&self.name)),
            _ => one_line(&self.name),
        };
        let name = match self.guide.as_str() {
            "" => name,
            guide => format!("{}{name}", paint(style::DIM, guide)),
        };
        let [kind, size, mut what] = form(self.value);
        let notes: Vec<String> = self.notes().collect();
        if !notes.is_empty() {
            what += &paint(style::DIM, format!("  {}", notes.join(", ")));
        }
        [name, kind, size, what]
    }

    /// How a tensor lies in memory, where that is worth a word.
    fn notes(&self) -> impl Iterator<Item = String> {
        let tied = self.tied_to.iter().map(|other| format!("tied to {}", one_line(other)));
        let shares = self.shares_with.iter();
        let shares = shares.map(|other| format!("shares memory with {}", one_line(other)));
        let tensor = self.value.as_tensor().filter(|tensor| !tensor.is_contiguous());
        let strides = tensor.map(|tensor| format!("strides {:?}", tensor.strides()));
        let same =
            self.same_as.iter().map(|other| format!("the same object as {}", one_line(other)));
        tied.chain(shares).chain(strides).chain(same)
    }
}

/// Type, size, and shape or value.
fn form(value: &Value) -> [String; 3] {
    let faint = |text: String| paint(style::DIM, text);
    let kind = match value.resolved() {
        Value::Object(object) if !object.content.is_empty() => one_line(&object.class),
        value => value.type_name().to_owned(),
    };
    match value.resolved() {
        Value::Tensor(tensor) => {
            let shape = format!("{:?}", tensor.shape());
            [tensor.dtype().to_string(), size(tensor.nbytes()), shape]
        }
        Value::Storage(storage, _) => [faint(kind), size(storage.len()), String::new()],
        other => match scalar(other).or_else(|| flat_list(other, VALUE_WIDTH)) {
            Some(text) => [faint(kind), String::new(), shortened(&text)],
            None => {
                let is_mapping = matches!(other, Value::Dict(_) | Value::Object(_));
                let noun = if is_mapping { "entry" } else { "item" };
                let text = counted(other.children().len() as u64, noun);
                let size = match totals(other).bytes {
                    0 => String::new(),
                    bytes => faint(size(bytes)),
                };
                [faint(kind), size, faint(text)]
            }
        },
    }
}

/// The text, cut where it is long.
pub(crate) fn shortened(text: &str) -> String {
    if text.chars().count() <= VALUE_WIDTH + 4 {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(VALUE_WIDTH).collect();
    out.push('…');
    out
}
