//! Files and parts of them, as they were typed.

use std::io::Write;
use std::path::Path;

use scai_checkpoint::codec::{Format, Protection};
use scai_checkpoint::{Error, Value};
use scai_inspect::File;
use scai_inspect::distributed::is_checkpoint_directory;

use crate::exit::Failure;
use crate::locate::{nearest, no_such_file};
use crate::render::{one_line, paint, printable, style};

/// About a file that was converted from one without checksums.
pub(crate) const UNNOTICED: &str = "so earlier damage could not be detected";

/// Opens a file. One without checksums is read, with a warning.
pub(crate) fn open(path: &Path) -> Result<File, Failure> {
    let file = open_quietly(path)?;
    let shown = path.display();
    if file.content().protection() == Protection::None {
        warn(&format!("`{shown}` has no checksums, so damage cannot be detected"));
    } else if file.comes_unprotected() {
        warn(&format!("`{shown}` was converted from a file without checksums, {UNNOTICED}"));
    }
    Ok(file)
}

fn open_quietly(path: &Path) -> Result<File, Failure> {
    if path.is_dir() && !is_checkpoint_directory(path) {
        return Err(is_directory(path));
    }
    File::open(path).map_err(|error| match error {
        Error::NotFound { .. } => no_such_file(path),
        error => error.into(),
    })
}

/// Opens a file as [`open`] does, but refuses one without checksums.
pub(crate) fn open_protected(path: &Path) -> Result<File, Failure> {
    let file = open_quietly(path)?;
    if file.content().protection() == Protection::None {
        let shown = path.display();
        return Err(Failure::usage(
            format!("`{shown}` has no checksums, so damage cannot be detected"),
            Some("`--allow-unprotected` converts it anyway and marks the new file".into()),
        ));
    }
    Ok(file)
}

/// The state tree of a file. Warns about stand-ins for objects that only code could make.
pub(crate) fn tree(file: &File) -> Result<&Value, Failure> {
    let tree = file.tree()?;
    let objects = tree.objects();
    let shown = file.path().display();
    if file.content().format() == Format::TorchScript {
        warn(&format!(
            "`{shown}` is a TorchScript archive: its tensors and attributes are read, and its code \
             is left out"
        ));
    } else if !objects.is_empty() {
        let mut classes: Vec<&str> =
            objects.iter().map(|(_, object)| object.class.as_str()).collect();
        classes.sort_unstable();
        classes.dedup();
        warn(&format!(
            "`{shown}` holds objects that only code could create, which is not run ({}); the data \
             they are made of takes their place",
            few(&classes)
        ));
    }
    Ok(tree)
}

/// The network of a training checkpoint.
#[cfg(feature = "train")]
pub(crate) fn network(path: &Path) -> Result<scai_train::SavedNetwork, Failure> {
    use scai_train::{Error as Training, SavedNetwork};

    let shown = path.display();
    if path.is_dir() {
        return Err(is_directory(path));
    }
    SavedNetwork::open(path).map_err(|error| match error {
        Training::Checkpoint(Error::NotFound { .. }) => no_such_file(path),
        Training::State(what) => Failure::usage(
            format!("`{shown}` is not a checkpoint of `scai train`: {what}"),
            Some(format!("`scai show {shown}` shows what is in it")),
        ),
        error => error.into(),
    })
}

fn is_directory(path: &Path) -> Failure {
    let shown = path.display();
    Failure::usage(
        format!("`{shown}` is a directory"),
        Some(format!("name a file in it; `scai list {shown}` lists them")),
    )
}

/// Says something on stderr.
#[cfg(feature = "train")]
pub(crate) fn say(message: &str) {
    let _ = writeln!(anstream::stderr(), "{message}");
}

/// Names listed in a message.
const NAMES: usize = 8;

/// A list, cut if it is long.
pub(crate) fn few(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Prints a warning on stderr.
pub(crate) fn warn(message: &str) {
    // If stderr is closed, there is nobody to warn.
    let warning = paint(style::WARN, "warning");
    let _ = writeln!(anstream::stderr(), "{warning}: {}", printable(message));
}

/// The part of a tree at `path`, or an error that suggests another.
pub(crate) fn part<'a>(tree: &'a Value, path: &str) -> Result<&'a Value, Failure> {
    tree.lookup(path).ok_or_else(|| {
        let mut paths = Vec::new();
        tree.visit(&mut |path, _| paths.push(path.to_owned()));
        let hint = match closest(path, &paths) {
            Some(near) => format!("did you mean `{}`?", one_line(near)),
            None => {
                let top: Vec<String> = tree.children().into_iter().map(|(key, _)| key).collect();
                format!("the top level has: {}", listed(&top))
            }
        };
        Failure::usage(format!("there is no `{path}` in the file"), Some(hint))
    })
}

/// The path that was most likely meant: one with that end, or a similar one.
fn closest<'a>(path: &str, paths: &'a [String]) -> Option<&'a str> {
    let paths = || paths.iter().map(String::as_str).filter(|path| !path.is_empty());
    let ends = |other: &&str| other.strip_suffix(path).is_some_and(|start| start.ends_with('.'));
    paths().filter(ends).min_by_key(|path| path.len()).or_else(|| {
        // A long common prefix makes different paths look similar: with the same parent, only the
        // last part is compared.
        let parent = path.rfind('.').map_or("", |at| &path[..=at]);
        let last = &path[parent.len()..];
        let siblings = paths().filter_map(|other| {
            let rest = other.strip_prefix(parent)?;
            (!rest.contains('.')).then_some(rest)
        });
        match nearest(last, siblings) {
            Some(near) => {
                paths().find(|other| other.strip_prefix(parent).is_some_and(|rest| rest == near))
            }
            // The end of a path, misspelled.
            None => {
                let end = |other: &'a str| {
                    let dots = path.matches('.').count();
                    other.rmatch_indices('.').nth(dots).map_or(other, |(at, _)| &other[at + 1..])
                };
                let near = nearest(path, paths().map(end))?;
                paths().find(|other| end(other) == near)
            }
        }
    })
}

/// A few names, separated by commas.
fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    let more = if names.len() > MOST { ", …" } else { "" };
    let shown: Vec<&str> = names.iter().map(String::as_str).take(MOST).collect();
    if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") + more }
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn a_near_name_or_the_end_of_a_path_is_found() {
        let names = ["model.conv", "model.conv.weight", "model.fc.weight", "training_stats"];
        let names = names.map(str::to_owned);
        assert_eq!(closest("conv.weight", &names), Some("model.conv.weight"));
        assert_eq!(closest("trainig_stats", &names), Some("training_stats"));
        assert_eq!(closest("model.fc.wieght", &names), Some("model.fc.weight"));
        assert_eq!(closest("conv.wieght", &names), Some("model.conv.weight"));
        assert_eq!(closest("zzz", &names), None);
    }
}
