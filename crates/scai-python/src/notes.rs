//! Notes beside a state tree: what plain values stand for.
//!
//! JSON, a list of `[path, tag]`. A path has the number of each child on the way, keys of
//! dictionaries below zero (`-1 - number`). A tag is one of `scai._convert`, or `["=", path]`: the
//! object is the one at that path.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;

/// The kind of the tag of an object that was met before.
pub(crate) const SAME: &str = "=";
/// In a path: the attributes of a dictionary.
pub(crate) const ATTRIBUTES: i64 = i64::MIN;
/// In a path: the arguments that a tensor is made of.
pub(crate) const ARGUMENTS: i64 = i64::MIN + 1;
/// In a path: the state that is set on such a tensor.
pub(crate) const STATE: i64 = i64::MIN + 2;

type Path = Vec<i64>;

/// The notes of a file, and the part of its tree that is looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    whole: Option<Arc<Whole>>,
    at: Path,
}

#[derive(Debug)]
struct Whole {
    text: String,
    parsed: OnceLock<Option<Parsed>>,
}

/// What is noted, by path.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    notes: HashMap<Path, Note>,
    /// Paths of objects that are elsewhere as well.
    pub(crate) firsts: HashSet<Path>,
}

/// What is noted of one place.
#[derive(Debug)]
pub(crate) enum Note {
    /// Tags as JSON, in the order in which the value was made plain.
    Tags(Vec<String>),
    /// It is the object at this path.
    Same(Path),
}

/// The notes are not of the form they have.
pub(crate) struct OtherForm;

impl From<PyErr> for OtherForm {
    fn from(_: PyErr) -> Self {
        Self
    }
}

impl Notes {
    pub(crate) fn new(text: Option<String>) -> Self {
        let whole = text.map(|text| Arc::new(Whole { text, parsed: OnceLock::new() }));
        Self { whole, at: Path::new() }
    }

    /// The notes as they are saved with the whole tree.
    pub(crate) fn text(&self) -> Option<&str> {
        self.whole.as_ref().filter(|_| self.at.is_empty()).map(|whole| whole.text.as_str())
    }

    /// Where in the tree of the file this is.
    pub(crate) fn path(&self) -> &[i64] {
        &self.at
    }

    /// The notes on what is below a child.
    pub(crate) fn below(&self, number: i64) -> Self {
        let mut below = self.clone();
        below.at.push(number);
        below
    }

    /// What is noted in the whole file; `None` if nothing is.
    pub(crate) fn parsed(&self) -> Result<Option<&Parsed>, OtherForm> {
        let Some(whole) = &self.whole else { return Ok(None) };
        let parsed = whole.parsed.get_or_init(|| parse(&whole.text));
        parsed.as_ref().map(Some).ok_or(OtherForm)
    }

    /// The pairs of children that hold one object, where there are notes on it.
    pub(crate) fn same_children(&self) -> Vec<(usize, usize)> {
        let Ok(Some(parsed)) = self.parsed() else { return Vec::new() };
        let child = |path: &Path| {
            let below = path.strip_prefix(&self.at[..])?;
            usize::try_from(*below.first()?).ok()
        };
        let pairs = parsed.notes.iter().filter_map(|(path, note)| match note {
            Note::Same(first) => Some((child(path)?, child(first)?)),
            Note::Tags(_) => None,
        });
        pairs.collect()
    }

    /// Whether a child stands for something else than it is.
    pub(crate) fn converts(&self, number: i64) -> bool {
        let Ok(Some(parsed)) = self.parsed() else { return false };
        let mut path = self.at.clone();
        path.push(number);
        match parsed.get(&path) {
            Some(Note::Same(first)) => matches!(parsed.get(first), Some(Note::Tags(_))),
            note => note.is_some(),
        }
    }
}

impl Parsed {
    pub(crate) fn get(&self, path: &[i64]) -> Option<&Note> {
        self.notes.get(path)
    }
}

fn parse(text: &str) -> Option<Parsed> {
    Python::attach(|py| parse_in(py, text).ok())
}

/// Python's own reader knows integers of any length.
fn parse_in(py: Python<'_>, text: &str) -> Result<Parsed, OtherForm> {
    let json = py.import("json")?;
    let mut parsed = Parsed::default();
    for entry in json.call_method1("loads", (text,))?.try_iter()? {
        let (path, tag): (Path, Bound<'_, PyAny>) = pair(&entry?)?;
        if tag.get_item(0).is_ok_and(|kind| kind.eq(SAME).unwrap_or(false)) {
            let (_, first): (String, Path) = pair(&tag)?;
            parsed.firsts.insert(first.clone());
            if parsed.notes.insert(path, Note::Same(first)).is_some() {
                return Err(OtherForm);
            }
            continue;
        }
        match parsed.notes.entry(path).or_insert_with(|| Note::Tags(Vec::new())) {
            Note::Tags(tags) => tags.push(json.call_method1("dumps", (tag,))?.extract()?),
            Note::Same(_) => return Err(OtherForm),
        }
    }
    // What is the same as something else is the first of them.
    let is_first = |path: &Path| !matches!(parsed.notes.get(path), Some(Note::Same(_)));
    if parsed.firsts.iter().all(is_first) { Ok(parsed) } else { Err(OtherForm) }
}

/// The two items of a list.
fn pair<'py, A, B>(list: &Bound<'py, PyAny>) -> Result<(A, B), OtherForm>
where
    A: FromPyObjectOwned<'py>,
    B: FromPyObjectOwned<'py>,
{
    if list.len()? != 2 {
        return Err(OtherForm);
    }
    let first = list.get_item(0)?.extract().map_err(|_| OtherForm)?;
    let second = list.get_item(1)?.extract().map_err(|_| OtherForm)?;
    Ok((first, second))
}
