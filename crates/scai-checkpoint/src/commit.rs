//! Publishing: the only code that gives a file its final name, takes it away or moves it.
//!
//! A save is acknowledged after these steps and not before:
//!
//! ```text
//! create a draft, reserve its space      no room: nothing has happened
//! write every byte that was planned
//! sync the draft, once                   failed: the draft is dead, nothing has happened
//! ask whether what was written counts    no: nothing has happened
//! give it its final name                 the old file is replaced in one step
//! sync the names                         failed: new or old after a power loss, so no promise
//! ```
//!
//! A draft has no name where the store can do without, so that a process that is killed leaves
//! nothing. Such a one gets its final name at once if that is free. Names are replaced by renaming
//! only, so otherwise it gets a temporary name and is renamed right away; where a draft has a
//! temporary name from the beginning, it is renamed as well.
//!
//! Each step consumes what the one before returned, so no order but this one can be written down.

#![cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "public for the tests of the protocol, through `testing`")
)]

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::store::{Draft, Lock, ReadAt, Store, Synced, WriteAt, draft_name};
use crate::timeline::{Stopwatch, Timeline};

/// What a copy holds in memory at a time.
const COPY_PIECE: u64 = 1 << 20;

/// Writes a file of `len` bytes and publishes it as `name`, replacing what had that name.
///
/// `write` must write each byte exactly once; it may do so in any order and from several threads.
/// On success the file is durable under its name. What is returned are the times of these steps;
/// no time is planning, and none comes after.
///
/// # Errors
/// [`Error::DiskFull`] where there is no room, a quota or a limit on the size of files is in the
/// way; [`Error::Io`] where something else fails; what `write` returns, where that fails. The
/// store is then as it was before.
///
/// [`Error::NotDurable`] where the file has its name but the directory could not be synced:
/// running processes see the new file, after a power loss it may be the old one, complete in
/// either case. The save is not acknowledged.
pub fn publish(
    store: &dyn Store,
    name: &str,
    len: u64,
    write: impl FnOnce(&dyn WriteAt) -> Result<()>,
) -> Result<Timeline> {
    publish_if(store, name, len, write, || Ok(()))
}

/// Publishes as [`publish`] does, unless `approve` returns an error. It is called once every byte
/// was written, just before the file gets its name.
///
/// # Errors
/// As [`publish`]; what `approve` returns. The store is then as it was before.
pub(crate) fn publish_if(
    store: &dyn Store,
    name: &str,
    len: u64,
    write: impl FnOnce(&dyn WriteAt) -> Result<()>,
    approve: impl FnOnce() -> Result<()>,
) -> Result<Timeline> {
    let mut watch = Stopwatch::start();
    let written = Target { store, name, len }.create()?.write(write)?;
    let write = watch.lap();
    let durable = written.sync()?;
    let sync = watch.lap();
    durable.approved(approve)?.put_in_place()?.make_durable()?;
    Ok(Timeline { write, sync, commit: watch.lap(), ..Timeline::default() })
}

/// Makes `alias` a further name of the file `target`, replacing what had that name.
///
/// Costs no second copy where the store has links; elsewhere the bytes are copied.
///
/// # Errors
/// [`Error::NotFound`] where `target` does not exist, else as [`publish`]. `alias` then names what
/// it named before.
pub fn point(store: &dyn Store, alias: &str, target: &str) -> Result<()> {
    let temporary = draft_name();
    let linked = store.link(target, &temporary);
    let renamed = if linked.is_ok() { store.rename(&temporary, alias) } else { Ok(()) };
    // A rename between two names of one file does nothing and leaves both, and what fails may
    // leave the name too. Where it cannot be removed, it is a draft without a writer, and swept.
    let _ = store.remove(&temporary);
    let to = Target { store, name: alias, len: 0 };
    match linked {
        Ok(()) => {}
        Err(error) if cannot_link(error.kind()) => return copy(store, target, alias),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::NotFound { path: path_of(store, target) });
        }
        Err(error) => return Err(to.refused("link", error)),
    }
    renamed.map_err(|error| to.refused("rename to its final name", error))?;
    Renamed(to).make_durable()
}

/// Where the file system has no links, or not for this file.
fn cannot_link(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unsupported
            | ErrorKind::PermissionDenied
            | ErrorKind::CrossesDevices
            | ErrorKind::TooManyLinks
    )
}

fn copy(store: &dyn Store, from: &str, to: &str) -> Result<()> {
    let file = open(store, from)?;
    publish(store, to, file.len(), |draft| {
        let mut piece = vec![0; file.len().min(COPY_PIECE) as usize];
        let mut at = 0;
        while at < file.len() {
            let piece = &mut piece[..(file.len() - at).min(COPY_PIECE) as usize];
            file.read_at(at, piece).map_err(|error| failed(store, from, "read", error))?;
            draft.write_at(at, piece).map_err(|error| Error::io("write", error))?;
            at += piece.len() as u64;
        }
        Ok(())
    })
    .map(drop)
}

fn open(store: &dyn Store, name: &str) -> Result<std::sync::Arc<dyn ReadAt>> {
    store.open(name).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: path_of(store, name) },
        _ => failed(store, name, "open", error),
    })
}

/// Removes files, in the order given, and makes that durable. A name without a file is no error.
///
/// # Errors
/// [`Error::Io`] where one cannot be removed; those before it are gone, those after it are not
/// touched.
pub fn remove_durably<N: AsRef<str>>(store: &dyn Store, names: &[N]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let removed = names.iter().try_for_each(|name| match store.remove(name.as_ref()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(failed(store, name.as_ref(), "remove", error))
        }
        _ => Ok(()),
    });
    let synced =
        store.sync().map_err(|error| directory_failed(store, "make removals durable", error));
    removed.and(synced)
}

/// Renames the damaged file `name` to `name.damaged` (or `name.damaged-2`, and so on), writes
/// `reason` beside it as `….txt`, and returns the new name.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Io`] where the file cannot be renamed; it is where it was then.
/// As [`publish`], where the reason cannot be written: the file has been set aside all the same.
pub fn set_aside(store: &dyn Store, name: &str, reason: &str) -> Result<String> {
    let entries = store.list().map_err(|error| directory_failed(store, "list", error))?;
    let taken = |name: &str| entries.iter().any(|entry| entry.name == name);
    let numbered = (2_u64..).map(|number| format!("{name}.damaged-{number}"));
    let aside = std::iter::once(format!("{name}.damaged"))
        .chain(numbered)
        .find(|aside| !taken(aside))
        .ok_or_else(|| Error::invalid(format!("`{name}` was set aside too often")))?;
    store.rename(name, &aside).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: path_of(store, name) },
        _ => failed(store, name, "set aside", error),
    })?;
    store.sync().map_err(|error| directory_failed(store, "make a new name durable", error))?;
    publish(store, &format!("{aside}.txt"), reason.len() as u64, |draft| {
        draft.write_at(0, reason.as_bytes()).map_err(|error| Error::io("write", error))
    })?;
    Ok(aside)
}

/// Keeps other writers out of the store until the lock is dropped.
///
/// # Errors
/// [`Error::Locked`] where another writer is in; [`Error::Io`] of the kind
/// [`ErrorKind::Unsupported`] where the store has no locks.
pub fn lock(store: &dyn Store) -> Result<Box<dyn Lock>> {
    store.lock().map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Error::Locked {
            path: store.describe().into(),
            holder: error.get_ref().map(ToString::to_string),
        },
        _ => directory_failed(store, "lock", error),
    })
}

fn path_of(store: &dyn Store, name: &str) -> PathBuf {
    Path::new(&store.describe()).join(name)
}

fn failed(store: &dyn Store, name: &str, action: &'static str, source: io::Error) -> Error {
    Error::io(action, source).at_path(path_of(store, name))
}

fn directory_failed(store: &dyn Store, action: &'static str, source: io::Error) -> Error {
    Error::io(action, source).at_path(store.describe())
}

/// What is to be published.
#[derive(Clone, Copy)]
struct Target<'a> {
    store: &'a dyn Store,
    name: &'a str,
    len: u64,
}

/// A draft with room for all bytes.
struct Created<'a>(Target<'a>, Box<dyn Draft>);

/// A draft with all bytes, none of them durable yet.
struct Written<'a>(Target<'a>, Box<dyn Draft>);

/// A draft whose bytes are durable, without its final name.
struct Durable<'a>(Target<'a>, Synced);

/// A file under its final name, which is not durable yet.
struct Renamed<'a>(Target<'a>);

impl<'a> Target<'a> {
    fn create(self) -> Result<Created<'a>> {
        match self.store.create_for(self.name, self.len) {
            Ok(draft) => Ok(Created(self, draft)),
            Err(error) => Err(self.refused("create", error)),
        }
    }

    /// An error of the store. Measured after the draft is gone, the free space is that which a
    /// next attempt would find.
    fn refused(&self, action: &'static str, source: io::Error) -> Error {
        let path = path_of(self.store, self.name);
        if !is_full(source.kind()) {
            return Error::io(action, source).at_path(path);
        }
        Error::DiskFull { path, needed: self.len, free: self.store.free_space(), source }
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
                "`{}`: {written} bytes were written where {} were planned",
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
            error => error.at_path(path_of(target.store, target.name)),
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
                    let _ = target.store.remove(synced.name());
                }
                Err(error.at_path(path_of(target.store, target.name)))
            }
        }
    }

    fn put_in_place(self) -> Result<Renamed<'a>> {
        let Self(target, synced) = self;
        let Target { store, name, .. } = target;
        if !synced.name().is_empty() {
            return Self::rename(target, synced.name());
        }
        match store.name_draft(&synced, name) {
            Ok(()) => Ok(Renamed(target)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let temporary = draft_name();
                match store.name_draft(&synced, &temporary) {
                    Ok(()) => Self::rename(target, &temporary),
                    Err(error) => {
                        let _ = store.remove(&temporary);
                        Err(target.refused("give it a name", error))
                    }
                }
            }
            Err(error) => Err(target.refused("give it its final name", error)),
        }
    }

    fn rename(target: Target<'a>, temporary: &str) -> Result<Renamed<'a>> {
        match target.store.rename(temporary, target.name) {
            Ok(()) => Ok(Renamed(target)),
            Err(error) => {
                // What cannot be removed either is left to the next sweep.
                let _ = target.store.remove(temporary);
                Err(target.refused("rename to its final name", error))
            }
        }
    }
}

impl Renamed<'_> {
    fn make_durable(self) -> Result<()> {
        let Self(Target { store, name, .. }) = self;
        store.sync().map_err(|source| Error::NotDurable { path: path_of(store, name), source })
    }
}

/// Counts what is written, so that a plan and its execution cannot drift apart unnoticed: what
/// was reserved and not written would read as zeros.
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
            let message =
                format!("{len} bytes at {offset} are not inside the {} planned", self.len);
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
