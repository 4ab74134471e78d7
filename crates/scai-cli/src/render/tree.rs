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
    /// The first tensor that is the same memory.
    pub(crate) tied_to: Option<String>,
    /// The lines that lead to it.
    guide: String,
    name: String,
}

/// The lines below `value`, which is at `path`, down to `depth` levels.
pub(crate) fn lines<'a>(value: &'a Value, path: &str, depth: usize) -> Vec<Line<'a>> {
    let mut lister = Lister { lines: Vec::new(), seen: HashMap::new(), deepest: depth };
    lister.children(value, path, "", 0);
    lister.lines
}

struct Lister<'a> {
    lines: Vec<Line<'a>>,
    seen: HashMap<View<'a>, String>,
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
            let tied_to = match child {
                Value::Tensor(tensor) if tensor.numel() > 0 => self.tie(tensor, &path),
                _ => None,
            };
            self.lines.push(Line {
                path: path.clone(),
                value: child,
                tied_to,
                guide: format!("{guide}{branch}"),
                name,
            });
            if depth + 1 < self.deepest && flat_list(child, VALUE_WIDTH).is_none() {
                self.children(child, &path, &format!("{guide}{trunk}"), depth + 1);
            }
        }
    }

    fn tie(&mut self, tensor: &'a Tensor, path: &str) -> Option<String> {
        let known = self.seen.get(&view(tensor)).cloned();
        if known.is_none() {
            self.seen.insert(view(tensor), path.to_owned());
        }
        known
    }
}

impl Line<'_> {
    /// Name, type, shape or value, size, note.
    pub(crate) fn cells(&self) -> Vec<String> {
        let guide = paint(style::DIM, &self.guide);
        let name = one_line(&self.name);
        let name = match self.value {
            Value::Dict(_) => paint(style::BOLD, name),
            _ => name,
        };
        let name = if self.guide.is_empty() { name } else { format!("{guide}{name}") };
        let mut cells = vec![name];
        cells.extend(form(self.value));
        cells.push(match (&self.tied_to, self.value) {
            (Some(other), _) => paint(style::DIM, format!("tied to {}", one_line(other))),
            (None, Value::Tensor(tensor)) if !tensor.is_contiguous() => {
                paint(style::DIM, format!("strides {:?}", tensor.strides()))
            }
            _ => String::new(),
        });
        cells
    }
}

/// Type, shape or value, and size of a value.
fn form(value: &Value) -> [String; 3] {
    let kind = match value {
        Value::Tensor(tensor) => tensor.dtype().to_string(),
        other => paint(style::DIM, other.type_name()),
    };
    let (what, bytes) = match value {
        Value::Tensor(tensor) => (format!("{:?}", tensor.shape()), tensor.nbytes()),
        Value::Storage(storage, _) => (String::new(), storage.len()),
        other => match scalar(other).or_else(|| flat_list(other, VALUE_WIDTH)) {
            Some(text) => return [kind, shortened(&text), String::new()],
            None => {
                let noun = if other.as_dict().is_some() { "entry" } else { "item" };
                let text = counted(other.children().len() as u64, noun);
                (paint(style::DIM, text), totals(other).bytes)
            }
        },
    };
    let size = match value {
        Value::Tensor(_) | Value::Storage(..) => size(bytes),
        _ if bytes > 0 => paint(style::DIM, size(bytes)),
        _ => String::new(),
    };
    [kind, what, size]
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
