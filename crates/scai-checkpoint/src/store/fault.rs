//! A directory that fails, tears, forgets or delays operations on purpose, and logs them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::{Directory, Draft, Entry, Lock, ReadAt, Stamp, Synced, WriteAt};
use crate::threads::held;

/// One operation of a [`FaultDirectory`] or of one of its children, named as in [`Directory`].
/// Names in a child are preceded by its own: `child/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the calls")]
pub enum Op {
    /// [`Directory::create`]. The file has no name yet.
    Create { len: u64 },
    /// [`WriteAt::write_at`] on the temporary file `name`.
    Write { name: String, offset: u64, len: u64 },
    /// [`Draft::sync`] of the temporary file `name`.
    SyncDraft { name: String },
    /// [`Directory::rename`].
    Rename { from: String, to: String },
    /// [`Directory::link`].
    Link { from: String, to: String },
    /// [`Directory::remove`].
    Remove { name: String },
    /// [`Directory::sync`].
    SyncNames,
    /// [`Directory::sync`] of a child.
    SyncChild { child: String },
    /// [`Directory::make_child`].
    MakeChild { name: String },
    /// [`Directory::remove_child`].
    RemoveChild { name: String },
    /// [`Directory::rename_child`].
    RenameChild { from: String, to: String },
    /// [`Directory::exchange_children`].
    ExchangeChildren { one: String, other: String },
    /// [`Directory::sync_file`].
    SyncFile { name: String },
    /// [`Directory::hold`].
    Hold,
    /// [`Directory::child`].
    Enter { name: String },
    /// [`Directory::children`].
    ListChildren,
    /// [`Directory::sweep`].
    Sweep,
    /// [`Directory::name_draft`].
    Name { to: String },
    /// [`Directory::lock`].
    Lock,
    /// [`Directory::list`].
    List,
    /// [`Directory::open`].
    Open { name: String },
    /// [`ReadAt::read_at`] on the file that was opened as `name`.
    Read { name: String, offset: u64, len: u64 },
}

impl Op {
    /// Whether the operation changes the directory or makes a change durable.
    pub fn is_mutation(&self) -> bool {
        let reads = matches!(
            self,
            Self::Lock
                | Self::Hold
                | Self::List
                | Self::ListChildren
                | Self::Open { .. }
                | Self::Enter { .. }
                | Self::Read { .. }
        );
        !reads
    }
}

/// The simulated error of the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An error of this kind and nothing more.
    Kind(io::ErrorKind),
    /// This error number.
    Os(i32),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Kind(kind) => kind.into(),
            Failure::Os(number) => Self::from_raw_os_error(number),
        }
    }
}

/// What happens instead of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is not done, and an error is returned.
    Fail(Failure),
    /// It is done, but an error is returned.
    FailAfter(Failure),
    /// The first half of a write is done, then an error is returned. Like `Fail` elsewhere.
    Tear(Failure),
    /// It is not done, and success is returned. An operation that must return something is done.
    Forget,
    /// It is done after a delay.
    Delay(Duration),
}

/// When a fault fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// At one operation.
    Once,
    /// At one operation and all that follow.
    FromThenOn,
}

/// A fault to inject.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which operations it applies to, such as [`Op::is_mutation`].
    pub concerns: fn(&Op) -> bool,
    /// How many of those still succeed before it fires.
    pub after: usize,
    /// How often it fires.
    pub times: Times,
    /// What it does.
    pub effect: Effect,
}

/// A directory that forwards everything to another one until a fault fires.
///
/// A test that wants to fail every operation loops over [`Fault::after`] from 0 until
/// [`FaultDirectory::fired`] returns 0. Two faults at once are a `FaultDirectory` over a
/// `FaultDirectory`. Its children share its faults, its counts and its log.
#[derive(Debug)]
pub struct FaultDirectory<S: ?Sized> {
    inner: Arc<S>,
    /// The name of the child, and a slash; empty if this is not a child.
    prefix: String,
    state: Arc<Mutex<State>>,
}

impl<S: ?Sized> Clone for FaultDirectory<S> {
    fn clone(&self) -> Self {
        let Self { inner, prefix, state } = self;
        Self { inner: Arc::clone(inner), prefix: prefix.clone(), state: Arc::clone(state) }
    }
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    concerned: usize,
    fired: usize,
    log: Vec<Op>,
}

/// The part of a fault that is left to the call it hits.
enum Now {
    Do,
    DoThenFail(Failure),
    Tear(Failure),
    Forget,
}

impl<S: Directory> FaultDirectory<S> {
    /// A directory without faults over `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), prefix: String::new(), state: Arc::default() }
    }
}

impl<S: Directory + ?Sized> FaultDirectory<S> {
    /// Arms a fault, in place of any other, and restarts counting and logging.
    pub fn arm(&self, fault: Fault) {
        *self.state() = State { fault: Some(fault), ..State::default() };
    }

    /// Disarms the fault; the log is kept.
    pub fn disarm(&self) {
        self.state().fault = None;
    }

    /// How often the fault has fired.
    pub fn fired(&self) -> usize {
        self.state().fired
    }

    /// All operations since the fault was armed, in order, whether they failed or not.
    pub fn log(&self) -> Vec<Op> {
        self.state().log.clone()
    }

    /// The directory below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// What the log calls the file or child `name`.
    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        held(&self.state)
    }

    /// Logs `op` and decides what happens to it.
    fn meet(&self, op: Op) -> io::Result<Now> {
        let effect = self.state().next(op);
        match effect {
            None => Ok(Now::Do),
            Some(Effect::Fail(failure)) => Err(failure.into()),
            Some(Effect::FailAfter(failure)) => Ok(Now::DoThenFail(failure)),
            Some(Effect::Tear(failure)) => Ok(Now::Tear(failure)),
            Some(Effect::Forget) => Ok(Now::Forget),
            Some(Effect::Delay(time)) => {
                thread::sleep(time);
                Ok(Now::Do)
            }
        }
    }

    /// An operation with nothing to return.
    fn change(&self, op: Op, act: impl FnOnce(&S) -> io::Result<()>) -> io::Result<()> {
        match self.meet(op)? {
            Now::Do => act(&self.inner),
            Now::DoThenFail(failure) => act(&self.inner).and(Err(failure.into())),
            Now::Tear(failure) => Err(failure.into()),
            Now::Forget => Ok(()),
        }
    }

    /// An operation whose result is needed.
    fn ask<T>(&self, op: Op, act: impl FnOnce(&S) -> io::Result<T>) -> io::Result<T> {
        match self.meet(op)? {
            Now::Do | Now::Forget => act(&self.inner),
            Now::DoThenFail(failure) => act(&self.inner).and(Err(failure.into())),
            Now::Tear(failure) => Err(failure.into()),
        }
    }
}

impl State {
    fn next(&mut self, op: Op) -> Option<Effect> {
        let concerned = self.fault.filter(|fault| (fault.concerns)(&op));
        self.log.push(op);
        let fault = concerned?;
        let position = self.concerned;
        self.concerned += 1;
        let fires = match fault.times {
            Times::Once => position == fault.after,
            Times::FromThenOn => position >= fault.after,
        };
        self.fired += usize::from(fires);
        fires.then_some(fault.effect)
    }
}

impl<S: Directory + ?Sized + 'static> Directory for FaultDirectory<S> {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        let inner = self.ask(Op::Create { len }, |inner| inner.create(len))?;
        Ok(Box::new(FaultDraft { directory: self.clone(), inner }))
    }

    fn create_for(&self, name: &str, len: u64) -> io::Result<Box<dyn Draft>> {
        let inner = self.ask(Op::Create { len }, |inner| inner.create_for(name, len))?;
        Ok(Box::new(FaultDraft { directory: self.clone(), inner }))
    }

    fn name_draft(&self, draft: &Synced, name: &str) -> io::Result<()> {
        self.change(Op::Name { to: self.named(name) }, |inner| inner.name_draft(draft, name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        let inner = self.ask(Op::Open { name: self.named(name) }, |inner| inner.open(name))?;
        Ok(Arc::new(FaultFile { directory: self.clone(), name: self.named(name), inner }))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.ask(Op::List, S::list)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let op = Op::Rename { from: self.named(from), to: self.named(to) };
        self.change(op, |inner| inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(Op::Remove { name: self.named(name) }, |inner| inner.remove(name))
    }

    fn sync(&self) -> io::Result<()> {
        let op = match self.prefix.strip_suffix('/') {
            None => Op::SyncNames,
            Some(child) => Op::SyncChild { child: child.into() },
        };
        self.change(op, S::sync)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let op = Op::Link { from: self.named(from), to: self.named(to) };
        self.change(op, |inner| inner.link(from, to))
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.ask(Op::Lock, S::lock)
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        self.ask(Op::Sweep, S::sweep)
    }

    fn sweep_unless_locked(&self) -> io::Result<Vec<String>> {
        self.inner.sweep_unless_locked()
    }

    fn check_location(&self) -> io::Result<()> {
        self.inner.check_location()
    }

    fn free_space(&self) -> Option<u64> {
        self.inner.free_space()
    }

    fn make_child(&self, name: &str) -> io::Result<()> {
        self.change(Op::MakeChild { name: self.named(name) }, |inner| inner.make_child(name))
    }

    fn child(&self, name: &str) -> io::Result<Arc<dyn Directory>> {
        let path = self.named(name);
        let inner = self.ask(Op::Enter { name: path.clone() }, |inner| inner.child(name))?;
        let state = Arc::clone(&self.state);
        Ok(Arc::new(FaultDirectory { inner, prefix: format!("{path}/"), state }))
    }

    fn children(&self) -> io::Result<Vec<String>> {
        self.ask(Op::ListChildren, S::children)
    }

    fn remove_child(&self, name: &str) -> io::Result<()> {
        self.change(Op::RemoveChild { name: self.named(name) }, |inner| inner.remove_child(name))
    }

    fn rename_child(&self, from: &str, to: &str) -> io::Result<()> {
        let op = Op::RenameChild { from: self.named(from), to: self.named(to) };
        self.change(op, |inner| inner.rename_child(from, to))
    }

    fn exchange_children(&self, one: &str, other: &str) -> io::Result<()> {
        let op = Op::ExchangeChildren { one: self.named(one), other: self.named(other) };
        self.change(op, |inner| inner.exchange_children(one, other))
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        self.change(Op::SyncFile { name: self.named(name) }, |inner| inner.sync_file(name))
    }

    fn hold(&self) -> io::Result<Box<dyn Lock>> {
        self.ask(Op::Hold, S::hold)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[derive(Debug)]
struct FaultDraft<S: ?Sized> {
    directory: FaultDirectory<S>,
    inner: Box<dyn Draft>,
}

impl<S: Directory + ?Sized> WriteAt for FaultDraft<S> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let name = self.directory.named(self.inner.name());
        match self.directory.meet(Op::Write { name, offset, len: bytes.len() as u64 })? {
            Now::Do => self.inner.write_at(offset, bytes),
            Now::DoThenFail(failure) => self.inner.write_at(offset, bytes).and(Err(failure.into())),
            Now::Tear(failure) => {
                let half = bytes.len() / 2;
                self.inner.write_at(offset, &bytes[..half]).and(Err(failure.into()))
            }
            Now::Forget => Ok(()),
        }
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }
}

impl<S: Directory + ?Sized> Draft for FaultDraft<S> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn sync(self: Box<Self>) -> io::Result<Synced> {
        let Self { directory, inner } = *self;
        let name = inner.name().to_owned();
        match directory.meet(Op::SyncDraft { name: directory.named(&name) })? {
            Now::Do => inner.sync(),
            Now::DoThenFail(failure) => {
                inner.sync()?;
                if !name.is_empty() {
                    let _ = directory.inner.remove(&name);
                }
                Err(failure.into())
            }
            Now::Tear(failure) => Err(failure.into()),
            Now::Forget if name.is_empty() => inner.forget_sync(),
            // The file stays unsynced; when it is dropped, its temporary name is gone.
            Now::Forget => Ok(Synced::new(name, inner)),
        }
    }
}

#[derive(Debug)]
struct FaultFile<S: ?Sized> {
    directory: FaultDirectory<S>,
    name: String,
    inner: Arc<dyn ReadAt>,
}

impl<S: Directory + ?Sized> ReadAt for FaultFile<S> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let op = Op::Read { name: self.name.clone(), offset, len: buf.len() as u64 };
        self.directory.ask(op, |_| self.inner.read_at(offset, buf))
    }

    fn stamp(&self) -> Option<Stamp> {
        self.inner.stamp()
    }

    fn forget_cached(&self) {
        self.inner.forget_cached();
    }
}
