//! What a process sees: a directory that stops it before every operation.

use std::any::Any;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use scai_checkpoint::store::{
    Directory, Draft, Entry, Lock, ReadAt, Synced, WriteAt, check_name, is_draft,
};
use xxhash_rust::xxh3::xxh3_128;

use super::world::{Content, Look, Op, Reply, digest};
use crate::support::Bytes;

/// One run of a process, from its start to the operation that was not recorded.
pub(super) struct Run {
    pub(super) process: usize,
    pub(super) recorded: Vec<(u128, Reply)>,
    pub(super) at: usize,
    pub(super) next: Option<(Op, Option<Content>)>,
    /// Temporary names are random; these stand for them, in the order in which they come.
    pub(super) temporary: HashMap<String, Arc<str>>,
    pub(super) synced: Option<Content>,
    /// What the process has noted since the last operation.
    pub(super) notes: Vec<Box<dyn Any + Send>>,
    pub(super) every: bool,
}

/// A directory that stops its process before every operation.
#[derive(Clone)]
pub(crate) struct Port {
    pub(super) folder: usize,
    pub(super) run: Arc<Mutex<Run>>,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "folder {}", self.folder)
    }
}

pub(super) struct Stopped;

impl Port {
    /// The result of an operation, if it is recorded. If not, this is where the process stops.
    fn call(&self, op: Op, content: Option<Content>) -> Reply {
        let mut run = self.run.lock().unwrap();
        if run.next.is_some() {
            // What is dropped while the stack unwinds does nothing.
            return Reply::Done(Err(ErrorKind::Interrupted));
        }
        if let Some((expected, reply)) = run.recorded.get(run.at).cloned() {
            assert_eq!(expected, digest(&op), "another operation in the same history: {op:?}");
            run.at += 1;
            run.notes.clear();
            return reply;
        }
        run.next = Some((op, content));
        drop(run);
        resume_unwind(Box::new(Stopped))
    }

    fn change(&self, op: Op) -> io::Result<()> {
        match self.call(op, None) {
            Reply::Done(done) => done.map_err(Into::into),
            other => panic!("{other:?}"),
        }
    }

    fn local(&self, what: &'static str) -> io::Result<()> {
        let every = self.run.lock().unwrap().every;
        if every { self.change(Op::Local(what)) } else { Ok(()) }
    }

    /// The name by which the explorer knows a file.
    fn named(&self, name: &str) -> io::Result<Arc<str>> {
        check_name(name)?;
        if !is_draft(name) {
            return Ok(name.into());
        }
        let mut run = self.run.lock().unwrap();
        let (process, nth) = (run.process, run.temporary.len());
        if run.temporary.values().any(|known| **known == *name) {
            return Ok(name.into());
        }
        let stands = || format!(".scai-{process:016x}{nth:016x}.tmp").into();
        Ok(Arc::clone(run.temporary.entry(name.into()).or_insert_with(stands)))
    }

    /// An operation that changes nothing: a moment of its own.
    pub(crate) fn pause(&self) {
        let _ = self.change(Op::Local("begin"));
    }

    /// Tells something to other processes.
    pub(crate) fn tell(&self, key: &str, value: &str) {
        let _ = self.change(Op::Tell(key.into(), value.into()));
    }

    /// Waits until the process `from` has told something; `None` if it is gone.
    pub(crate) fn hear(&self, key: &str, from: usize) -> Option<Arc<str>> {
        match self.call(Op::Hear { key: key.into(), from }, None) {
            Reply::Heard(value) => value,
            other => panic!("{other:?}"),
        }
    }

    /// Notes something at the moment of the last operation.
    pub(crate) fn note<E: Send + 'static>(&self, event: E) {
        let mut run = self.run.lock().unwrap();
        if run.next.is_none() {
            run.notes.push(Box::new(event));
        }
    }
}

impl Directory for Port {
    fn create(&self, _: u64) -> io::Result<Box<dyn Draft>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn create_for(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        self.change(Op::Create(self.folder, self.named(name)?))?;
        Ok(Box::new(PortDraft { port: self.clone(), bytes: Mutex::new(vec![0; len as usize]) }))
    }

    /// A process writes one file at a time: it is the one that was synced last.
    fn name_draft(&self, _: &Synced, name: &str) -> io::Result<()> {
        let name = self.named(name)?;
        let content = self.run.lock().unwrap().synced.clone().ok_or(ErrorKind::InvalidInput)?;
        let op = Op::Name(self.folder, name, content.digest);
        match self.call(op, Some(content)) {
            Reply::Done(done) => done.map_err(Into::into),
            other => panic!("{other:?}"),
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        match self.call(Op::Open(self.folder, self.named(name)?), None) {
            Reply::File(Ok(content)) => Ok(Arc::new(Bytes(content.bytes.to_vec()))),
            Reply::File(Err(error)) | Reply::Done(Err(error)) => Err(error.into()),
            other => panic!("{other:?}"),
        }
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        match self.call(Op::List(self.folder), None) {
            Reply::Names(names) => {
                let entry = |(name, len): (Arc<str>, u64)| Entry::file(&*name, len);
                Ok(names.into_iter().map(entry).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Op::Rename(self.folder, self.named(from)?, self.named(to)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(Op::Remove(self.folder, self.named(name)?))
    }

    fn sync(&self) -> io::Result<()> {
        self.local("sync the directory")
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        match self.call(Op::Sweep(self.folder), None) {
            Reply::Names(names) => Ok(names.iter().map(|(name, _)| name.to_string()).collect()),
            other => panic!("{other:?}"),
        }
    }

    fn make_child(&self, name: &str) -> io::Result<()> {
        self.change(Op::MakeChild(self.folder, self.named(name)?))
    }

    fn child(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        match self.call(Op::Enter(self.folder, self.named(name)?), None) {
            Reply::Folder(Ok(folder)) => Ok(Arc::new(Self { folder, run: Arc::clone(&self.run) })),
            Reply::Folder(Err(error)) => Err(error.into()),
            other => panic!("{other:?}"),
        }
    }

    fn children(&self) -> io::Result<Vec<String>> {
        match self.call(Op::Children(self.folder), None) {
            Reply::Names(names) => Ok(names.iter().map(|(name, _)| name.to_string()).collect()),
            other => panic!("{other:?}"),
        }
    }

    fn rename_child(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Op::RenameChild(self.folder, self.named(from)?, self.named(to)?))
    }

    fn remove_child(&self, name: &str) -> io::Result<()> {
        self.change(Op::RemoveChild(self.folder, self.named(name)?))
    }

    fn hold(&self) -> io::Result<Box<dyn Lock>> {
        self.change(Op::Hold(self.folder))?;
        Ok(Box::new(Held(self.clone())))
    }

    fn describe(&self) -> String {
        format!("folder {}", self.folder)
    }
}

#[derive(Debug)]
struct Held(Port);

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.change(Op::Release(self.0.folder));
    }
}

#[derive(Debug)]
struct PortDraft {
    port: Port,
    bytes: Mutex<Vec<u8>>,
}

impl WriteAt for PortDraft {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.port.local("write")?;
        self.bytes.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl Draft for PortDraft {
    fn name(&self) -> &str {
        ""
    }

    fn sync(self: Box<Self>) -> io::Result<Synced> {
        self.port.local("sync a file")?;
        let bytes = self.bytes.into_inner().unwrap();
        let content = Content { digest: xxh3_128(&bytes), bytes: bytes.into() };
        self.port.run.lock().unwrap().synced = Some(content);
        Ok(Synced::unnamed(()))
    }
}

impl Directory for Look {
    fn create(&self, _: u64) -> io::Result<Box<dyn Draft>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        let content = self.0.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(Bytes(content.bytes.to_vec())))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let entry = |(name, content): (&Arc<str>, &Content)| {
            Entry::file(&**name, content.bytes.len() as u64)
        };
        Ok(self.0.iter().map(entry).collect())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn describe(&self) -> String {
        "a look".to_owned()
    }
}
