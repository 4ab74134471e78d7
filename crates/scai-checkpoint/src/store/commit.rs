//! Publishing: the only code that gives a file its final name, renames it or removes it.
//!
//! A save is acknowledged after these steps and not before:
//!
//! ```text
//! create a temporary file, reserve space    no room: nothing has happened
//! write every byte that was planned
//! sync the file, once                       failed: the file is discarded, nothing has happened
//! ask for approval                          refused: nothing has happened
//! give it its final name                    the old file is replaced in one step
//! sync the names                            failed: new or old after a power loss: an error
//! ```
//!
//! The temporary file ([`Draft`]) has no name if the directory supports that, so that a killed
//! process leaves nothing behind. It then gets its final name directly if that is free. Only a
//! rename replaces a name, so otherwise it gets a temporary name and is renamed at once; a file
//! that had a temporary name from the beginning is renamed as well.
//!
//! Each step consumes what the one before returned, so no other order compiles.

#![cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "public for the tests of the protocol, through `testing`")
)]

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Directory, Draft, Entry, HEADS, Lock, Precondition, Publication, ReadAt, Synced, WriteAt,
    draft_name, free_name, is_draft, replaced, replaced_name,
};
use crate::error::{Error, Result};
use crate::timeline::{Stopwatch, Timeline};

/// Writes a file of `len` bytes and publishes it as `name`, replacing what had that name.
///
/// `write` must write each byte exactly once; it may do so in any order and from several threads.
/// On success the file is durable under its name. Returns the times of these steps; those of
/// planning and of what follows are zero.
///
/// # Errors
/// As [`publish_entry`].
pub fn publish(
    directory: &dyn Directory,
    name: &str,
    len: u64,
    write: impl FnOnce(&dyn WriteAt) -> Result<()>,
) -> Result<Timeline> {
    publish_entry(directory, Publication::new(name, len, write))
}

/// Writes a file and publishes it under its name, as [`publish`] does; only if the name is free, if
/// requested, and only if what was written is approved.
///
/// # Errors
/// [`Error::DiskFull`] if there is no room, or a quota or a limit on the size of files is exceeded;
/// [`Error::Io`] if something else fails, of the kind [`ErrorKind::AlreadyExists`] if the name must
/// be free and is not; what `write` or `approve` returns, if that fails. The directory is then as it
/// was before.
///
/// [`Error::NotDurable`] if the file has its name but the directory could not be synced:
/// running processes see the new file, after a power loss it may be the old one, complete in
/// either case. The save is not acknowledged.
pub fn publish_entry(directory: &dyn Directory, entry: Publication<'_>) -> Result<Timeline> {
    let mut watch = Stopwatch::start();
    let Publication { name, len, precondition, write, approve } = entry;
    let written = Target { directory, name, len, precondition }.create()?.write(write)?;
    let write = watch.lap();
    let durable = written.sync()?;
    let sync = watch.lap();
    durable.approved(approve)?.put_in_place()?.make_durable()?;
    Ok(Timeline { write, sync, commit: watch.lap(), ..Timeline::default() })
}

/// Publishes files in the child directory `child`, which is created if it does not exist, in the order
/// given: each is durable in the child before the next one is begun, so that the last one implies all
/// others. On success they are durable, and so is the name of the child.
///
/// # Errors
/// As [`publish_entry`] for each file: those before it are there, those after it are not.
/// [`Error::NotDurable`] if the name of the child could not be made durable.
#[cfg(feature = "testing")]
pub fn publish_in_child<'a>(
    directory: &dyn Directory,
    child: &str,
    files: impl IntoIterator<Item = Publication<'a>>,
) -> Result<()> {
    match directory.make_child(child) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(failed(directory, child, "make the directory", error));
        }
        _ => {}
    }
    let inside = directory
        .child(child)
        .map_err(|error| failed(directory, child, "open the directory", error))?;
    files.into_iter().try_for_each(|file| publish_entry(&*inside, file).map(drop))?;
    directory.sync().map_err(|source| Error::NotDurable { path: path_of(directory, child), source })
}

/// Gives the child `staged`, in which everything is durable, the name `name`. A child of that name is
/// replaced in one step, and then removed.
///
/// If the directory cannot exchange two children, that takes two steps: after a crash between them the old
/// one has another name, from which [`sweep_children`] brings it back.
///
/// # Errors
/// [`Error::Io`] if it cannot be renamed; nothing has changed then. [`Error::NotDurable`] if the directory
/// could not be synced.
pub fn publish_child(directory: &dyn Directory, staged: &str, name: &str) -> Result<()> {
    let refused = |error| failed(directory, name, "give the directory its final name", error);
    let old = match directory.rename_child(staged, name) {
        Ok(()) => None,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Some(replace_child(directory, staged, name).map_err(refused)?)
        }
        Err(error) => return Err(refused(error)),
    };
    directory
        .sync()
        .map_err(|source| Error::NotDurable { path: path_of(directory, name), source })?;
    if let Some(old) = old {
        // What cannot be removed now is left to the next sweep.
        let _ = remove_all(directory, &old);
    }
    Ok(())
}

/// Gives the child `staged`, in which everything is durable, the name `name`, which is free or that of an empty
/// directory.
///
/// # Errors
/// [`Error::Io`] of the kind [`ErrorKind::AlreadyExists`] or [`ErrorKind::DirectoryNotEmpty`] if anything has
/// the name; nothing has changed then. [`Error::NotDurable`] if the directory could not be synced.
pub(crate) fn publish_new_child(directory: &dyn Directory, staged: &str, name: &str) -> Result<()> {
    let refused = |error| failed(directory, name, "give the directory its final name", error);
    match directory.rename_child(staged, name) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            directory.remove_child(name).map_err(refused)?;
            directory.rename_child(staged, name).map_err(refused)?;
        }
        renamed => renamed.map_err(refused)?,
    }
    directory.sync().map_err(|source| Error::NotDurable { path: path_of(directory, name), source })
}

/// Puts the child `staged` in the place of the child `name`, and returns what that is called now.
fn replace_child(directory: &dyn Directory, staged: &str, name: &str) -> io::Result<String> {
    match directory.exchange_children(staged, name) {
        Ok(()) => return Ok(staged.to_owned()),
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        Err(error) => return Err(error),
    }
    // While it is held, no sweep takes it for what a crash has left.
    let _held = directory.child(name)?.hold();
    let old = replaced_name(name);
    directory.rename_child(name, &old)?;
    match directory.rename_child(staged, name) {
        Ok(()) => Ok(old),
        Err(error) => {
            let _ = directory.rename_child(&old, name);
            Err(error)
        }
    }
}

/// Removes the child `name` with all that is in it, and makes that durable: from one moment on it is gone
/// as a whole. A name without a child is not an error.
///
/// # Errors
/// [`Error::Io`] if it cannot be renamed or the directory not be synced. Files that cannot be removed are
/// left under a temporary name.
pub fn remove_child_durably(directory: &dyn Directory, name: &str) -> Result<()> {
    let temporary = draft_name();
    match directory.rename_child(name, &temporary) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(|error| failed(directory, name, "remove", error))?,
    }
    directory
        .sync()
        .map_err(|error| directory_failed(directory, "make a removal durable", error))?;
    remove_all(directory, &temporary)
        .map_err(|error| failed(directory, &temporary, "remove", error))
}

/// Removes children under temporary names that nobody holds, and brings back what was about to be replaced
/// when a crash came.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be read or synced. What cannot be removed is left.
pub fn sweep_children(directory: &dyn Directory) -> Result<()> {
    let failed = |error| directory_failed(directory, "sweep the directory", error);
    let mut changed = false;
    for name in directory.children().map_err(failed)? {
        let original = replaced(&name);
        if !is_draft(&name) && original.is_none() {
            continue;
        }
        let Ok(child) = directory.child(&name) else { continue };
        let held = child.hold();
        if held.as_ref().is_err_and(|error| error.kind() != ErrorKind::Unsupported) {
            continue;
        }
        let restored =
            original.is_some_and(|name_before| directory.rename_child(&name, name_before).is_ok());
        // Whether somebody writes there cannot be known if it cannot be held.
        let removed = !restored && held.is_ok() && remove_all(directory, &name).is_ok();
        changed |= restored || removed;
    }
    if changed { directory.sync().map_err(failed) } else { Ok(()) }
}

/// Removes the child `name` with all that is in it. Symbolic links are removed, not followed.
pub(crate) fn remove_all(directory: &dyn Directory, name: &str) -> io::Result<()> {
    match remove_what_is_there(directory, name) {
        // A sweep of another thread or process was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn remove_what_is_there(directory: &dyn Directory, name: &str) -> io::Result<()> {
    let child = directory.child(name)?;
    let mut files: Vec<String> = child.list()?.into_iter().map(|entry| entry.name).collect();
    // Who has opened the first, and finds others missing, can tell a removal from damage.
    files.sort_by_key(|file| !HEADS.contains(&file.as_str()));
    for file in files.into_iter().chain(child.unopenable()?) {
        // A directory is not removed by this, and a link to one is.
        let _ = child.remove(&file);
    }
    for below in child.children()? {
        remove_all(&*child, &below)?;
    }
    directory.remove_child(name)
}

/// Makes `alias` another name of the file `target`, replacing what had that name.
///
/// Makes a link if the directory has links; otherwise the bytes are copied.
///
/// # Errors
/// [`Error::NotFound`] if `target` does not exist, otherwise as [`publish`]. `alias` then names
/// what it named before.
pub fn point(directory: &dyn Directory, alias: &str, target: &str) -> Result<()> {
    let temporary = draft_name();
    let linked = directory.link(target, &temporary);
    let renamed = if linked.is_ok() { directory.rename(&temporary, alias) } else { Ok(()) };
    // A rename between two names of one file does nothing and leaves both, and one that fails may
    // leave the name too. If it cannot be removed, it is a temporary file without a writer, and is swept.
    let _ = directory.remove(&temporary);
    let to = Target { directory, name: alias, len: 0, precondition: Precondition::Any };
    match linked {
        Ok(()) => {}
        Err(error) if cannot_link(error.kind()) => return copy(directory, target, alias),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::NotFound { path: path_of(directory, target) });
        }
        Err(error) => return Err(to.refused("link", error)),
    }
    renamed.map_err(|error| to.refused("rename to its final name", error))?;
    Renamed(to).make_durable()
}

/// Whether the file system has no links, or not for this file.
fn cannot_link(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unsupported
            | ErrorKind::PermissionDenied
            | ErrorKind::CrossesDevices
            | ErrorKind::TooManyLinks
    )
}

fn copy(directory: &dyn Directory, from: &str, to: &str) -> Result<()> {
    let file = open(directory, from)?;
    let path = path_of(directory, from);
    publish(directory, to, file.len(), |draft| super::copy(&*file, &path, draft)).map(drop)
}

/// Opens the file called `name`.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Io`].
pub(super) fn open(directory: &dyn Directory, name: &str) -> Result<Arc<dyn ReadAt>> {
    let opened = directory.open(name);
    opened.map_err(|error| Error::of_path("open", path_of(directory, name), error))
}

/// Removes files, in the order given, and makes that durable. A name without a file is not an error.
///
/// # Errors
/// [`Error::Io`] if one cannot be removed; those before it are gone, those after it are not touched.
pub fn remove_durably<N: AsRef<str>>(directory: &dyn Directory, names: &[N]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let removed = names.iter().try_for_each(|name| match directory.remove(name.as_ref()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(failed(directory, name.as_ref(), "remove", error))
        }
        _ => Ok(()),
    });
    let synced = directory
        .sync()
        .map_err(|error| directory_failed(directory, "make removals durable", error));
    removed.and(synced)
}

/// Renames the damaged file or child `name` to `name.damaged` (or `name.damaged-2`, and so on), writes
/// `reason` beside it as `….txt`, and returns the new name.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Io`] if it cannot be renamed; it then keeps its name. As
/// [`publish`] if the reason cannot be written; it has been set aside nevertheless.
pub fn set_aside(directory: &dyn Directory, name: &str, reason: &str) -> Result<String> {
    let aside = free_for(directory, &format!("{name}.damaged"))?;
    let renamed = match directory.children() {
        Ok(children) if children.iter().any(|child| child == name) => {
            directory.rename_child(name, &aside)
        }
        _ => directory.rename(name, &aside),
    };
    renamed.map_err(|error| Error::of_path("set aside", path_of(directory, name), error))?;
    directory
        .sync()
        .map_err(|error| directory_failed(directory, "make a new name durable", error))?;
    let why = format!("{aside}.txt");
    publish_entry(directory, Publication::of_bytes(&why, reason.as_bytes()))?;
    Ok(aside)
}

/// Renames the child `name` to `base`, or to a free name that begins so, and returns that.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Io`] if it cannot be renamed; it then keeps its name.
pub(super) fn rename_child_durably(
    directory: &dyn Directory,
    name: &str,
    base: &str,
) -> Result<String> {
    let to = free_for(directory, base)?;
    directory
        .rename_child(name, &to)
        .map_err(|error| Error::of_path("rename", path_of(directory, name), error))?;
    directory
        .sync()
        .map_err(|error| directory_failed(directory, "make a new name durable", error))?;
    Ok(to)
}

/// A name that neither a file nor a child has.
fn free_for(directory: &dyn Directory, base: &str) -> Result<String> {
    let failed = |error| directory_failed(directory, "list", error);
    let mut entries = directory.list().map_err(failed)?;
    let children = directory.children().map_err(failed)?;
    entries.extend(children.into_iter().map(|name| Entry::group(name, 0)));
    Ok(free_name(base, &entries))
}

/// Enters the child `name`, which is made if it does not exist; its name is durable then.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn make_child_durably(
    directory: &dyn Directory,
    name: &str,
) -> Result<Arc<dyn Directory>> {
    let failed = |action| move |error| failed(directory, name, action, error);
    match directory.make_child(name) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.map_err(failed("make the directory"))?,
    }
    directory.sync().map_err(failed("make the name of the directory durable"))?;
    directory.child(name).map_err(failed("open the directory"))
}

/// Keeps other writers out of the directory until the lock is dropped.
///
/// # Errors
/// [`Error::Locked`] if another writer has the lock; [`Error::Io`] of the kind
/// [`ErrorKind::Unsupported`] if the directory has no locks.
pub fn lock(directory: &dyn Directory) -> Result<Box<dyn Lock>> {
    directory.lock().map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Error::Locked {
            path: directory.describe().into(),
            holder: error.get_ref().map(ToString::to_string),
        },
        _ => directory_failed(directory, "lock", error),
    })
}

fn path_of(directory: &dyn Directory, name: &str) -> PathBuf {
    Path::new(&directory.describe()).join(name)
}

fn failed(directory: &dyn Directory, name: &str, action: &'static str, source: io::Error) -> Error {
    Error::io(action, source).at_path(path_of(directory, name))
}

/// An error of the directory as a whole.
pub(super) fn directory_failed(
    directory: &dyn Directory,
    action: &'static str,
    source: io::Error,
) -> Error {
    Error::io(action, source).at_path(directory.describe())
}

/// What is to be published.
#[derive(Clone, Copy)]
struct Target<'a> {
    directory: &'a dyn Directory,
    name: &'a str,
    len: u64,
    precondition: Precondition,
}

/// A temporary file with room for all bytes.
struct Created<'a>(Target<'a>, Box<dyn Draft>);

/// A temporary file with all bytes, none of them durable yet.
struct Written<'a>(Target<'a>, Box<dyn Draft>);

/// A temporary file whose bytes are durable, without its final name.
struct Durable<'a>(Target<'a>, Synced);

/// A file under its final name, which is not durable yet.
struct Renamed<'a>(Target<'a>);

impl<'a> Target<'a> {
    fn create(self) -> Result<Created<'a>> {
        if self.precondition == Precondition::Absent && self.exists()? {
            // Checked before the first byte is written; giving the name checks it again.
            return Err(self.taken());
        }
        match self.directory.create_for(self.name, self.len) {
            Ok(draft) => Ok(Created(self, draft)),
            Err(error) => Err(self.refused("create", error)),
        }
    }

    fn exists(&self) -> Result<bool> {
        match self.directory.open(self.name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(self.directory, self.name, "look for it", error)),
        }
    }

    fn taken(&self) -> Error {
        failed(self.directory, self.name, "publish it as new", ErrorKind::AlreadyExists.into())
    }

    /// An error of the directory. The free space is measured after the temporary file is gone, as
    /// the next attempt would find it.
    fn refused(&self, action: &'static str, source: io::Error) -> Error {
        let path = path_of(self.directory, self.name);
        if !is_full(source.kind()) {
            return Error::io(action, source).at_path(path);
        }
        Error::DiskFull { path, needed: self.len, free: self.directory.free_space(), source }
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

impl<'a> Created<'a> {
    fn write(self, write: impl FnOnce(&dyn WriteAt) -> Result<()>) -> Result<Written<'a>> {
        let Self(target, draft) = self;
        let planned = Planned { draft: &*draft, written: AtomicU64::new(0), len: target.len };
        let result = write(&planned);
        let written = planned.written.into_inner();
        let error = match result {
            Ok(()) if written == target.len => return Ok(Written(target, draft)),
            Ok(()) => Error::invalid(format!(
                "`{}`: {written} bytes were written, but {} were planned",
                target.name, target.len
            )),
            Err(error) => error,
        };
        drop(draft);
        Err(match error {
            // An error that names another file already is not about this one.
            Error::Io { place, action, source }
                if place.path.is_none() && is_full(source.kind()) =>
            {
                target.refused(action, source)
            }
            error => error.at_path(path_of(target.directory, target.name)),
        })
    }
}

impl<'a> Written<'a> {
    fn sync(self) -> Result<Durable<'a>> {
        let Self(target, draft) = self;
        match draft.sync() {
            Ok(synced) => Ok(Durable(target, synced)),
            Err(error) => Err(target.refused("make its content durable", error)),
        }
    }
}

impl<'a> Durable<'a> {
    fn approved(self, approve: impl FnOnce() -> Result<()>) -> Result<Self> {
        match approve() {
            Ok(()) => Ok(self),
            Err(error) => {
                let Self(target, synced) = self;
                // One without a name is gone with its last handle.
                if !synced.name().is_empty() {
                    let _ = target.directory.remove(synced.name());
                }
                Err(error.at_path(path_of(target.directory, target.name)))
            }
        }
    }

    fn put_in_place(self) -> Result<Renamed<'a>> {
        let Self(target, synced) = self;
        let Target { directory, name, precondition, .. } = target;
        if !synced.name().is_empty() {
            return match precondition {
                Precondition::Any => Self::rename(target, synced.name()),
                Precondition::Absent => Self::link(target, synced.name()),
            };
        }
        match directory.name_draft(&synced, name) {
            Ok(()) => Ok(Renamed(target)),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(target.refused("give it its final name", error))
            }
            Err(_) if precondition == Precondition::Absent => Err(target.taken()),
            Err(_) => {
                let temporary = draft_name();
                match directory.name_draft(&synced, &temporary) {
                    Ok(()) => Self::rename(target, &temporary),
                    Err(error) => {
                        let _ = directory.remove(&temporary);
                        Err(target.refused("give it a name", error))
                    }
                }
            }
        }
    }

    /// Gives a file that has a temporary name its final one, which must be free.
    fn link(target: Target<'a>, temporary: &str) -> Result<Renamed<'a>> {
        let Target { directory, name, .. } = target;
        let linked = directory.link(temporary, name);
        let linked = match linked {
            // Without links, only the holder of the lock gives names.
            Err(error) if cannot_link(error.kind()) => match target.exists() {
                Ok(false) => return Self::rename(target, temporary),
                Ok(true) => Err(target.taken()),
                Err(error) => Err(error),
            },
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(target.taken()),
            linked => linked.map_err(|error| target.refused("give it its final name", error)),
        };
        // What cannot be removed is left to the next sweep.
        let _ = directory.remove(temporary);
        linked.map(|()| Renamed(target))
    }

    fn rename(target: Target<'a>, temporary: &str) -> Result<Renamed<'a>> {
        match target.directory.rename(temporary, target.name) {
            Ok(()) => Ok(Renamed(target)),
            Err(error) => {
                // What cannot be removed either is left to the next sweep.
                let _ = target.directory.remove(temporary);
                Err(target.refused("rename to its final name", error))
            }
        }
    }
}

impl Renamed<'_> {
    fn make_durable(self) -> Result<()> {
        let Self(Target { directory, name, .. }) = self;
        directory
            .sync()
            .map_err(|source| Error::NotDurable { path: path_of(directory, name), source })
    }
}

/// Counts what is written, to detect a difference between a plan and its execution: what was
/// reserved but not written would read as zeros.
#[derive(Debug)]
struct Planned<'a> {
    draft: &'a dyn Draft,
    written: AtomicU64,
    len: u64,
}

impl WriteAt for Planned<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            let message = format!("{len} bytes at {offset} exceed the {} planned", self.len);
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        self.draft.write_at(offset, bytes)?;
        self.written.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn alignment(&self) -> usize {
        self.draft.alignment()
    }
}
