//! What processes share: directories, and what they tell each other.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::sync::Arc;

use scai_checkpoint::store::is_draft;
use xxhash_rust::xxh3::xxh3_128;

use super::Notes;

/// The bytes of a file, which never change.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(super) bytes: Arc<[u8]>,
    pub(super) digest: u128,
}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// A directory.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Folder {
    files: BTreeMap<Arc<str>, Content>,
    children: BTreeMap<Arc<str>, usize>,
    removed: bool,
    /// The process that holds it.
    held: Option<usize>,
    /// The processes that have given temporary names.
    writers: BTreeMap<Arc<str>, usize>,
}

/// All that processes share.
#[derive(Debug, Clone, Hash)]
pub(crate) struct World<N> {
    pub(super) folders: Vec<Folder>,
    /// Whether the file system has locks.
    pub(crate) locks: bool,
    /// What processes have told each other.
    mail: BTreeMap<Arc<str>, Arc<str>>,
    /// Which processes have ended or were killed.
    pub(crate) gone: Vec<bool>,
    /// What was promised.
    pub(crate) notes: N,
}

impl<N> World<N> {
    pub(crate) fn new(processes: usize, locks: bool, notes: N) -> Self {
        let folders = vec![Folder::default()];
        Self { folders, locks, mail: BTreeMap::new(), gone: vec![false; processes], notes }
    }

    /// The child of this name, to be looked at.
    pub(crate) fn child(&self, name: &str) -> Option<Look> {
        let folder = *self.folders[0].children.get(name)?;
        Some(Look(self.folders[folder].files.clone()))
    }

    /// Kills what is not gone.
    pub(crate) fn kill_all(&mut self)
    where
        N: Notes,
    {
        for process in 0..self.gone.len() {
            if !self.gone[process] {
                self.leave(process);
                self.notes.gone(process);
            }
        }
    }

    pub(super) fn leave(&mut self, process: usize) {
        self.gone[process] = true;
        for folder in &mut self.folders {
            folder.held.take_if(|holder| *holder == process);
        }
    }

    pub(super) fn is_enabled(&self, op: &Op) -> bool {
        match op {
            Op::Hear { key, from } => self.mail.contains_key(key) || self.gone[*from],
            _ => true,
        }
    }
}

/// The files of a directory at one moment.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Look(pub(super) BTreeMap<Arc<str>, Content>);

/// What a process asks for. The number is that of a directory.
#[derive(Debug, Clone, Hash, PartialEq, Eq)]
pub(crate) enum Op {
    MakeChild(usize, Arc<str>),
    Enter(usize, Arc<str>),
    Children(usize),
    RenameChild(usize, Arc<str>, Arc<str>),
    RemoveChild(usize, Arc<str>),
    List(usize),
    Open(usize, Arc<str>),
    Create(usize, Arc<str>),
    /// Gives a file without a name its name. The content is known by its digest.
    Name(usize, Arc<str>, u128),
    Rename(usize, Arc<str>, Arc<str>),
    Remove(usize, Arc<str>),
    Hold(usize),
    Release(usize),
    Sweep(usize),
    /// Changes nothing that others see.
    Local(&'static str),
    Tell(Arc<str>, Arc<str>),
    /// Waits until somebody has told this, or the process that would is gone.
    Hear {
        key: Arc<str>,
        from: usize,
    },
}

#[derive(Debug, Clone, Hash)]
pub(super) enum Reply {
    Done(Result<(), ErrorKind>),
    File(Result<Content, ErrorKind>),
    Folder(Result<usize, ErrorKind>),
    Names(Vec<(Arc<str>, u64)>),
    Heard(Option<Arc<str>>),
}

pub(crate) fn digest(of: &impl Hash) -> u128 {
    struct Collect(Vec<u8>);
    impl Hasher for Collect {
        fn finish(&self) -> u64 {
            0
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }
    let mut bytes = Collect(Vec::with_capacity(1024));
    of.hash(&mut bytes);
    xxh3_128(&bytes.0)
}

impl<N> World<N> {
    pub(super) fn apply(&mut self, process: usize, op: &Op, content: Option<&Content>) -> Reply {
        let locks = self.locks;
        match op {
            Op::Tell(key, value) => {
                self.mail.insert(Arc::clone(key), Arc::clone(value));
                Reply::Done(Ok(()))
            }
            Op::Hear { key, .. } => Reply::Heard(self.mail.get(key).cloned()),
            Op::Local(_) => Reply::Done(Ok(())),
            Op::MakeChild(at, name) => {
                let new = self.folders.len();
                let made = self.folders[*at].check_free(name).map(|()| {
                    self.folders[*at].children.insert(Arc::clone(name), new);
                    self.folders.push(Folder::default());
                });
                Reply::Done(made)
            }
            Op::RemoveChild(at, name) => {
                let Some(child) = self.folders[*at].children.get(name).copied() else {
                    return Reply::Done(Err(ErrorKind::NotFound));
                };
                let inside = &mut self.folders[child];
                if !inside.files.is_empty() || !inside.children.is_empty() {
                    return Reply::Done(Err(ErrorKind::DirectoryNotEmpty));
                }
                inside.removed = true;
                self.folders[*at].children.remove(name);
                Reply::Done(Ok(()))
            }
            Op::Sweep(at) => {
                let Folder { files, writers, .. } = &mut self.folders[*at];
                let gone = &self.gone;
                let is_left = |name: &Arc<str>| {
                    is_draft(name) && writers.get(name).is_none_or(|writer| gone[*writer])
                };
                let left: Vec<_> = files.keys().filter(|name| is_left(name)).cloned().collect();
                for name in &left {
                    files.remove(name);
                    writers.remove(name);
                }
                Reply::Names(left.into_iter().map(|name| (name, 0)).collect())
            }
            Op::Enter(at, _)
            | Op::Children(at)
            | Op::RenameChild(at, ..)
            | Op::List(at)
            | Op::Open(at, _)
            | Op::Create(at, _)
            | Op::Name(at, ..)
            | Op::Rename(at, ..)
            | Op::Remove(at, _)
            | Op::Hold(at)
            | Op::Release(at) => self.folders[*at].apply(process, op, content, locks),
        }
    }
}

impl Folder {
    fn check_free(&self, name: &str) -> Result<(), ErrorKind> {
        match () {
            () if self.removed => Err(ErrorKind::NotFound),
            () if self.files.contains_key(name) || self.children.contains_key(name) => {
                Err(ErrorKind::AlreadyExists)
            }
            () => Ok(()),
        }
    }

    fn apply(&mut self, process: usize, op: &Op, content: Option<&Content>, locks: bool) -> Reply {
        let not_found = ErrorKind::NotFound;
        match op {
            Op::Enter(_, name) => Reply::Folder(self.children.get(name).copied().ok_or(not_found)),
            Op::Children(_) => {
                Reply::Names(self.children.keys().map(|name| (Arc::clone(name), 0)).collect())
            }
            Op::RenameChild(_, from, to) => {
                let child = self.children.get(from).copied().ok_or(not_found);
                Reply::Done(child.and_then(|child| {
                    self.check_free(to)?;
                    self.children.remove(from);
                    self.children.insert(Arc::clone(to), child);
                    Ok(())
                }))
            }
            Op::List(_) => {
                let entry = |(name, content): (&Arc<str>, &Content)| {
                    (Arc::clone(name), content.bytes.len() as u64)
                };
                Reply::Names(self.files.iter().map(entry).collect())
            }
            Op::Open(_, name) => Reply::File(self.files.get(name).cloned().ok_or(not_found)),
            Op::Create(_, name) => Reply::Done(match () {
                () if self.removed => Err(not_found),
                () if self.children.contains_key(name) => Err(ErrorKind::InvalidInput),
                () => Ok(()),
            }),
            Op::Name(_, name, _) => Reply::Done(self.check_free(name).map(|()| {
                self.files.extend(content.map(|content| (Arc::clone(name), content.clone())));
                if is_draft(name) {
                    self.writers.insert(Arc::clone(name), process);
                }
            })),
            Op::Rename(_, from, to) => Reply::Done(match self.files.remove(from) {
                None => Err(not_found),
                Some(content) => {
                    self.writers.remove(from);
                    self.files.insert(Arc::clone(to), content);
                    Ok(())
                }
            }),
            Op::Remove(_, name) => {
                self.writers.remove(name);
                Reply::Done(self.files.remove(name).map(drop).ok_or(not_found))
            }
            Op::Hold(_) => Reply::Done(match self.held {
                _ if !locks => Err(ErrorKind::Unsupported),
                Some(_) => Err(ErrorKind::WouldBlock),
                None => {
                    self.held = Some(process);
                    Ok(())
                }
            }),
            Op::Release(_) => {
                self.held.take_if(|holder| *holder == process);
                Reply::Done(Ok(()))
            }
            _ => Reply::Done(Err(ErrorKind::Unsupported)),
        }
    }
}
