//! Writing a directory under a temporary name, and committing it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Bound, COMMIT, Commit, Kind, digest, each, path_in};
use crate::checkpoint::now_iso;
use crate::error::{Error, Result};
use crate::store::{
    Directory, IntoLocation, LocalDirectory, Lock, Publication, attempt, commit, draft_name,
    is_draft,
};
use crate::threads::{default_threads, held};

/// A sweep could remove a new directory before it is held; more than a few times in a row means that
/// something else is wrong.
const ATTEMPTS: usize = 16;

/// Directories below one another; more are a link that leads to itself.
const DEEPEST: usize = 64;

/// What a commit says besides its files.
#[derive(Debug, Clone, Default)]
pub struct About {
    iteration: Option<u64>,
    about: BTreeMap<String, String>,
}

impl About {
    /// The iteration.
    #[must_use]
    pub fn iteration(self, iteration: u64) -> Self {
        Self { iteration: Some(iteration), ..self }
    }

    /// What the writer says of itself, such as `framework`.
    #[must_use]
    pub fn note(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.about.insert(name.into(), value.into());
        self
    }
}

/// A directory under a temporary name, in which files are written. Dropped without a commit, it is removed.
#[derive(Debug)]
pub struct Staging {
    parent: LocalDirectory,
    name: String,
    path: PathBuf,
    /// The process that made it: a forked child has a copy of this value, and must not remove it.
    process: u32,
    /// Shows that its writer is alive; `None` if the file system cannot.
    _held: Option<Box<dyn Lock>>,
}

impl Staging {
    /// Makes the directory in `parent`, which is created if it does not exist. What killed processes have
    /// left there is removed.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made.
    pub fn begin(parent: impl IntoLocation) -> Result<Self> {
        let given = parent.to_path_buf();
        let parent = LocalDirectory::create(parent)
            .map_err(|error| Error::io("create the directory", error).at_path(given))?;
        commit::sweep_children(&parent)?;
        let failed = |error| Error::io("create a directory in it", error).at_path(parent.path());
        for _ in 0..ATTEMPTS {
            let name = draft_name();
            parent.make_child(&name).map_err(failed)?;
            let held = match parent.child(&name).and_then(|child| child.hold()) {
                Ok(held) => Some(held),
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => None,
                // A sweep was faster.
                Err(_) => continue,
            };
            if parent.child(&name).is_ok() {
                let (path, process) = (parent.path().join(&name), std::process::id());
                return Ok(Self { parent, name, path, process, _held: held });
            }
        }
        Err(failed(std::io::Error::other("every new directory was removed by another process")))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes everything that was written durable and gives the directory the name `name`; returns its path.
    /// One of that name is replaced in one step. On return the checkpoint is durable.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read or synced, or the disk is full; [`Error::Invalid`] for what is
    /// neither file nor directory. What has the name is then untouched, and what was written is removed.
    /// [`Error::NotDurable`] if the new directory may not survive a power failure.
    pub fn commit(self, name: &str, about: &About) -> Result<PathBuf> {
        self.parent.check_location().map_err(|error| {
            Error::io("write to the directory", error).at_path(self.parent.path())
        })?;
        commit_in(&self.parent, &self.name, name, about, default_threads())?;
        Ok(path_in(&self.parent, name))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // Once it is committed, its name is gone, or that of what it has replaced. What cannot be
            // removed now is left to the next sweep.
            let _ = commit::remove_all(&self.parent, &self.name);
        }
    }
}

/// Commits the child `staged` of any directory as `name`: [`Staging::commit`] for stores in tests.
///
/// # Errors
/// As [`Staging::commit`].
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public in tests"))]
pub fn commit_in(
    directory: &dyn Directory,
    staged: &str,
    name: &str,
    about: &About,
    threads: usize,
) -> Result<Commit> {
    let opened = directory.child(staged);
    let inside =
        opened.map_err(|error| Error::of_path("open", path_in(directory, staged), error))?;
    let mut found = Found::default();
    found.add(&inside, "", 0)?;

    let bound = Mutex::new(Ok(BTreeMap::new()));
    each(found.files.len(), threads, |i| {
        let file = &found.files[i];
        if held(&bound).is_err() {
            return;
        }
        let result = file.bind();
        let mut bound = held(&bound);
        match (&mut *bound, result) {
            (Ok(files), Ok(bound)) => drop(files.insert(file.path.clone(), bound)),
            (bound @ Ok(_), Err(error)) => *bound = Err(error),
            (Err(_), _) => {}
        }
    });
    let files = bound.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    for (below, path) in found.directories.iter().rev() {
        below.sync().map_err(|error| Error::io("make its names durable", error).at_path(path))?;
    }
    let commit = Commit {
        iteration: about.iteration,
        about: about.about.clone(),
        ..Commit::new(Kind::Files, attempt(), now_iso(), files)
    };
    // This makes the names in it durable as well.
    let written = commit::publish_entry(&*inside, Publication::of_bytes(COMMIT, &commit.encode()));
    written.map_err(|error| match error {
        // Nothing has its final name yet.
        Error::NotDurable { path, source } => {
            Error::io("make its names durable", source).at_path(path)
        }
        error => error,
    })?;
    commit::publish_child(directory, staged, name)?;
    Ok(commit)
}

/// What is in a directory, and below it.
#[derive(Default)]
struct Found {
    files: Vec<FoundFile>,
    /// Those below, parents first.
    directories: Vec<(Arc<dyn Directory>, PathBuf)>,
}

struct FoundFile {
    directory: Arc<dyn Directory>,
    name: String,
    /// The name with slashes, from the top.
    path: String,
}

impl Found {
    fn add(&mut self, directory: &Arc<dyn Directory>, prefix: &str, depth: usize) -> Result<()> {
        let failed = |error| Error::io("list the directory", error).at_path(directory.describe());
        if depth > DEEPEST {
            let where_ = directory.describe();
            return Err(Error::invalid(format!("`{where_}` is too deep, or a link to itself")));
        }
        for entry in directory.list().map_err(failed)? {
            if is_draft(&entry.name) || (depth == 0 && entry.name == COMMIT) {
                continue;
            }
            let path = format!("{prefix}{}", entry.name);
            self.files.push(FoundFile { directory: Arc::clone(directory), name: entry.name, path });
        }
        let children = directory.children().map_err(failed)?;
        let others = directory.unopenable().map_err(failed)?;
        if let Some(other) = others.iter().find(|other| !children.contains(other)) {
            return Err(Error::invalid(format!(
                "`{}` is neither a file nor a directory, so it cannot be part of a checkpoint",
                path_in(&**directory, other).display()
            )));
        }
        for name in children {
            let child = directory.child(&name).map_err(failed)?;
            self.directories.push((Arc::clone(&child), path_in(&**directory, &name)));
            self.add(&child, &format!("{prefix}{name}/"), depth + 1)?;
        }
        Ok(())
    }
}

impl FoundFile {
    /// Makes the content durable and computes its digest.
    fn bind(&self) -> Result<Bound> {
        let path = path_in(&*self.directory, &self.name);
        let opened = self.directory.open(&self.name);
        let file = opened.map_err(|error| Error::of_path("open", path.clone(), error))?;
        let digest = digest(&*file, &1.into()).map_err(|error| error.at_path(&path))?;
        self.directory
            .sync_file(&self.name)
            .map_err(|error| Error::io("make its content durable", error).at_path(&path))?;
        Ok(Bound::whole(file.len(), digest))
    }
}
