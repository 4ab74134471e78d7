//! The state tree as lines.

use scai_checkpoint::Value;
use scai_inspect::Totals;
use scai_inspect::show::Entry;

use super::{counted, flat_list, one_line, paint, scalar, size, style};

/// Characters that a value takes at most.
const VALUE_WIDTH: usize = 56;

/// A line of the tree.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) entry: &'a Entry<'a>,
    /// The lines that lead to it.
    guide: String,
}

/// The lines of the entries below a part.
pub(crate) fn lines<'a>(entries: &'a [Entry<'a>]) -> Vec<Line<'a>> {
    // Whether each container that the next entry may be in is the last of its own.
    let mut are_last: Vec<bool> = Vec::new();
    let line = |entry: &'a Entry<'a>| {
        are_last.truncate(entry.depth);
        // The outermost entries have no guides.
        let trunks = are_last.iter().skip(1).map(|is_last| if *is_last { "   " } else { "│  " });
        let branch = match (entry.depth, entry.is_last) {
            (0, _) => "",
            (_, false) => "├─ ",
            (_, true) => "└─ ",
        };
        let guide = trunks.chain([branch]).collect();
        are_last.push(entry.is_last);
        Line { entry, guide }
    };
    entries.iter().map(line).collect()
}

impl Line<'_> {
    /// Name, type, size, shape or value.
    pub(crate) fn cells(&self) -> [String; 4] {
        let name = match self.entry.value.resolved() {
            Value::Dict(_) | Value::Object(_) => paint(style::BOLD, one_line(self.entry.name())),
            _ => one_line(self.entry.name()),
        };
        let name = match self.guide.as_str() {
            "" => name,
            guide => format!("{}{name}", paint(style::DIM, guide)),
        };
        let [kind, size, mut what] = form(self.entry.value);
        let notes: Vec<String> = self.notes().collect();
        if !notes.is_empty() {
            what += &paint(style::DIM, format!("  {}", notes.join(", ")));
        }
        [name, kind, size, what]
    }

    /// The memory layout of a tensor, if it is unusual.
    fn notes(&self) -> impl Iterator<Item = String> {
        let Entry { value, tied_to, shares_memory_with, same_as, .. } = self.entry;
        let tied = tied_to.iter().map(|other| format!("tied to {}", one_line(other)));
        let shares = shares_memory_with.iter();
        let shares = shares.map(|other| format!("shares memory with {}", one_line(other)));
        let tensor = value.as_tensor().filter(|tensor| !tensor.is_contiguous());
        let strides = tensor.map(|tensor| format!("strides {:?}", tensor.strides()));
        let same = same_as.iter();
        let same = same.map(|other| format!("the same object as {}", one_line(other)));
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
                let size = match Totals::of(other).bytes {
                    0 => String::new(),
                    bytes => faint(size(bytes)),
                };
                [faint(kind), size, faint(text)]
            }
        },
    }
}

/// The text, cut if it is long.
pub(crate) fn shortened(text: &str) -> String {
    if text.chars().count() <= VALUE_WIDTH + 4 {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(VALUE_WIDTH).collect();
    out.push('…');
    out
}
