//! From a path that was typed to a directory of checkpoints and a name in it.

use std::path::Path;

use scai_checkpoint::store::{Directory, LocalDirectory};
use scai_checkpoint::{CheckpointManager, Error, Options};

use crate::exit::Failure;

/// How similar two names must be for one to be suggested for the other.
const NEAR: f64 = 0.8;

/// A file that was typed: the directory it is in, and its name there.
pub(crate) fn split(path: &Path) -> Result<(&Path, &str), Failure> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        return Err(Failure::usage(format!("`{}` is not a file", path.display()), None));
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    Ok((directory, name))
}

/// The manager of a directory that was typed.
pub(crate) fn manager(directory: &Path, options: Options) -> Result<CheckpointManager, Failure> {
    CheckpointManager::open(directory, options).map_err(|error| match error {
        Error::NotFound { path } if !directory.is_file() => {
            Failure::usage(format!("there is no directory `{}`", path.display()), None)
        }
        _ if directory.is_file() => Failure::usage(
            format!("`{}` is a file, not a directory of checkpoints", directory.display()),
            None,
        ),
        error => error.into(),
    })
}

/// The error for a `path` that does not exist, with a similar name in the same directory if there
/// is one.
pub(crate) fn no_such_file(path: &Path) -> Failure {
    let near = || {
        let (directory, name) = split(path).ok()?;
        let entries = LocalDirectory::open(directory).ok()?.list().ok()?;
        let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        Some(path.with_file_name(nearest(name, names.iter().map(String::as_str))?))
    };
    let hint = near().map(|near| format!("did you mean `{}`?", near.display()));
    Failure::usage(format!("there is no file `{}`", path.display()), hint)
}

/// The name most similar to `typed`, if one is similar enough.
pub(crate) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
