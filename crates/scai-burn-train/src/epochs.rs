//! The epochs of a directory: which there are, what is the matter with them, and reading one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scai_checkpoint::error::{Error, Place, Result};
use scai_checkpoint::folder::{self, Bound, Commit, Staging};
use scai_checkpoint::store::{Directory, IntoLocation, LocalDirectory, ReadAt};
use twox_hash::XxHash3_128;

use crate::part::{Part, number};
use crate::{coordinator, links};

/// The directory of a committed epoch.
pub(crate) fn name(epoch: usize) -> String {
    format!("epoch-{epoch}")
}

/// The committed epochs, in ascending order.
pub(crate) fn committed(directory: &LocalDirectory) -> Result<Vec<usize>> {
    let names = directory
        .children()
        .map_err(|error| Error::io("list the directory", error).at_path(directory.path()))?;
    let mut epochs: Vec<usize> =
        names.iter().filter_map(|name| number(name.strip_prefix("epoch-")?)).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// Checks that what has the name of an epoch is one, and may be replaced or deleted.
///
/// # Errors
/// [`Error::NotACheckpoint`] for a directory that has no commit and holds other files than an epoch has.
pub(crate) fn check_replaceable(directory: &LocalDirectory, epoch: usize) -> Result<()> {
    let path = directory.path().join(name(epoch));
    let listed = directory.child(&name(epoch)).and_then(|child| {
        let names = child.list()?.into_iter().map(|entry| entry.name);
        Ok((names.collect::<Vec<_>>(), child.children()?))
    });
    let (files, children) = match listed {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|error| Error::io("list", error).at_path(&path))?,
    };
    let is_epoch = files.iter().any(|file| file == folder::COMMIT)
        || (children.is_empty() && files.iter().all(|file| Part::of_file(file).is_some()));
    if is_epoch { Ok(()) } else { Err(no_commit(&path)) }
}

/// The newest epoch that is sound, which [`newest`] returns.
#[derive(Debug)]
#[non_exhaustive]
pub struct Newest {
    /// The epoch.
    pub epoch: usize,
    /// What is wrong with each of the newer epochs, which are damaged.
    pub skipped: Vec<Error>,
}

/// The newest epoch in `directory` that is sound: what to give to burn's `SupervisedTraining::checkpoint`.
/// `None` if nothing was ever saved there.
///
/// Every byte of the epoch is read and checked. Epochs that are damaged are skipped and reported; they stay
/// where they are. An epoch that a crash interrupted was never there.
///
/// # Errors
/// [`Error::NothingToResume`] if all epochs are damaged. [`Error::NotACheckpoint`] if burn's own
/// checkpointers have saved a newer epoch there: see [`adopt`]. [`Error::Io`] if the directory cannot be
/// read.
pub fn newest(directory: impl IntoLocation) -> Result<Option<Newest>> {
    let Some(directory) = opened(directory)? else { return Ok(None) };
    // What a crash has left between two names of one epoch is put right first.
    let _ = folder::sweep(directory.path());
    let epochs = committed(&directory)?;
    if let Some(epoch) = newest_of_burn(&directory)?.filter(|epoch| Some(epoch) > epochs.last()) {
        return Err(Error::NotACheckpoint {
            place: Box::new(Place {
                path: Some(directory.path().join(Part::Model.file(epoch))),
                ..Place::default()
            }),
            what: format!("epoch {epoch} was saved by burn's own checkpointers"),
            hint: format!(
                "call `scai_burn_train::adopt(directory, {epoch})` once to go on from it, or move its \
                 files away"
            ),
        });
    }
    let mut skipped = Vec::new();
    for &epoch in epochs.iter().rev() {
        match Epoch::open(&directory, epoch) {
            Ok(_) => return Ok(Some(Newest { epoch, skipped })),
            Err(error) if error.is_damage() || error.is_obstacle() => skipped.push(error),
            Err(error) => return Err(error),
        }
    }
    if skipped.is_empty() {
        return Ok(None);
    }
    let named = epochs.iter().rev().map(|epoch| name(*epoch));
    // The list names each directory already.
    let why = skipped.into_iter().map(|error| error.without_path().to_string());
    Err(Error::NothingToResume { path: directory.path().into(), skipped: named.zip(why).collect() })
}

/// Commits the epoch that burn's own checkpointers have saved in `directory`, so that a training which began
/// with them goes on with these.
///
/// The files are copied as they are. Whether they belong together and are what burn wrote cannot be known:
/// they have no checksums.
///
/// # Errors
/// [`Error::NotFound`] if one of the three files is missing; [`Error::Io`]; [`Error::Locked`].
pub fn adopt(directory: impl IntoLocation, epoch: usize) -> Result<()> {
    let path = directory.to_path_buf();
    let directory = opened(directory)?.ok_or(Error::NotFound { path })?;
    let _lock = coordinator::lock(&directory)?;
    let staging = Staging::begin(directory.path())?;
    for file in Part::ALL.map(|part| part.file(epoch)) {
        copy(&directory.path().join(&file), &staging.path().join(&file))?;
    }
    check_replaceable(&directory, epoch)?;
    staging.commit(&name(epoch), &coordinator::about(epoch))?;
    links::update(&directory, &committed(&directory)?, Some(epoch));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the target is not published, it is being staged")]
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: from.into() },
        _ => Error::io("copy", error).at_path(from),
    })
}

/// The directory; `None` if it does not exist.
fn opened(location: impl IntoLocation) -> Result<Option<LocalDirectory>> {
    let path = location.to_path_buf();
    match LocalDirectory::open(location) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open the directory", error).at_path(path)),
    }
}

/// The newest epoch of which burn's own checkpointers have saved all three files.
fn newest_of_burn(directory: &LocalDirectory) -> Result<Option<usize>> {
    let files = directory
        .list()
        .map_err(|error| Error::io("list the directory", error).at_path(directory.path()))?;
    let found = files.iter().filter_map(|file| Part::of_file(&file.name));
    let epochs: BTreeSet<usize> = found.map(|(_, epoch)| epoch).collect();
    let is_complete =
        |epoch: &usize| Part::ALL.iter().all(|part| links::is_plain(directory, &part.file(*epoch)));
    Ok(epochs.into_iter().rev().find(is_complete))
}

/// A committed epoch whose files are open: it stays the same one, whatever happens to its name.
pub(crate) struct Epoch {
    number: usize,
    directory: Arc<dyn Directory>,
    commit: Commit,
    files: Vec<(Part, Arc<dyn ReadAt>)>,
}

impl Epoch {
    /// Opens an epoch after checking every byte of all its files.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Damaged`], naming the file; [`Error::NotACheckpoint`] without a commit.
    pub(crate) fn open(parent: &LocalDirectory, number: usize) -> Result<Self> {
        let path = parent.path().join(name(number));
        let directory = parent.child(&name(number)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::NotFound { path: path.clone() },
            _ => Error::io("open", error).at_path(&path),
        })?;
        let commit = folder::commit_of(&path)?.ok_or_else(|| no_commit(&path))?;
        let mut files = Vec::new();
        for part in Part::ALL {
            let file = directory.open(&part.file(number)).map_err(|error| match error.kind() {
                ErrorKind::NotFound => damaged(&path, part, number, "is missing"),
                _ => Error::io("open", error).at_path(path.join(part.file(number))),
            })?;
            files.push((part, file));
        }
        let epoch = Self { number, directory, commit, files };
        for part in Part::ALL {
            epoch.bound(part)?;
        }
        match folder::verify(&path, 2)?.into_iter().next() {
            Some(wrong) => Err(wrong),
            None => Ok(epoch),
        }
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The bytes of one file, which are checked once more as they are read.
    ///
    /// # Errors
    /// [`Error::Damaged`]; [`Error::Io`].
    pub(crate) fn read(&self, part: Part) -> Result<Vec<u8>> {
        let wrong = |detail| self.wrong(part, detail);
        let bound = self.bound(part)?;
        let file = self.files.iter().find(|(found, _)| *found == part).map(|(_, file)| file);
        let file = file.ok_or_else(|| wrong("is missing"))?;
        if file.len() != bound.size {
            return Err(wrong("does not have the length that was committed"));
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes)
            .map_err(|error| Error::io("read", error).at_path(self.path(part)))?;
        if format!("{:032x}", XxHash3_128::oneshot(&bytes)) != bound.xxh3_128 {
            return Err(wrong("does not match its checksum"));
        }
        Ok(bytes)
    }

    pub(crate) fn path(&self, part: Part) -> PathBuf {
        Path::new(&self.directory.describe()).join(part.file(self.number))
    }

    fn bound(&self, part: Part) -> Result<&Bound> {
        let bound = self.commit.files.get(&part.file(self.number));
        bound.ok_or_else(|| self.wrong(part, "is not part of the commit"))
    }

    fn wrong(&self, part: Part, detail: &str) -> Error {
        damaged(Path::new(&self.directory.describe()), part, self.number, detail)
    }
}

fn damaged(path: &Path, part: Part, epoch: usize, detail: &str) -> Error {
    let place = Place { path: Some(path.into()), ..Place::default() };
    Error::Damaged {
        place: Box::new(place),
        detail: format!("the file `{}` {detail}", part.file(epoch)),
    }
}

fn no_commit(path: &Path) -> Error {
    Error::NotACheckpoint {
        place: Box::new(Place { path: Some(path.into()), ..Place::default() }),
        what: format!("the directory has no `{}`", folder::COMMIT),
        hint: "it was not committed with scai, so nothing is known about its files".to_owned(),
    }
}
