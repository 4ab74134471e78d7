//! Saves in the background: one thread, a short queue, and errors that do not get lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::memory::room_for_thread;
use crate::threads::held;
use crate::timeline::Timeline;

/// Saves that may wait besides the one that is under way. More would hold more states in memory.
const QUEUE: usize = 1;

/// A save that is durable.
#[derive(Debug)]
#[non_exhaustive]
pub struct Saved {
    /// The file's name in its directory.
    pub name: String,
    /// The directory and the name.
    pub path: PathBuf,
    /// Bytes of the file.
    pub size: u64,
    /// The digest that binds every byte of the file, as it stands in the file itself.
    pub root: u128,
    /// Time its stages took.
    pub timeline: Timeline,
    /// Checkpoints that retention removed.
    pub removed: Vec<String>,
    /// What went wrong after the save was durable: `latest.pt` could not be moved, or retention
    /// could not be applied. The checkpoint itself is safe.
    pub warnings: Vec<Error>,
}

/// A save in the background.
#[derive(Debug, Clone)]
pub struct SaveHandle(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Pending,
    Done(Arc<Saved>),
    /// Failed; whether somebody was told.
    Failed(Arc<Error>, Told),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    Yes,
}

impl SaveHandle {
    /// Whether the save has ended, well or not.
    pub fn is_done(&self) -> bool {
        !matches!(*held(&self.0.state), State::Pending)
    }

    /// Waits until the checkpoint is durable.
    ///
    /// # Errors
    /// [`Error::Background`] with what went wrong. It then counts as told, and does not come out of
    /// the manager's next call.
    pub fn wait(&self) -> Result<Arc<Saved>> {
        loop {
            match &mut *self.ended() {
                State::Done(saved) => return Ok(Arc::clone(saved)),
                State::Failed(error, told) => {
                    *told = Told::Yes;
                    return Err(Error::Background(Arc::clone(error)));
                }
                State::Pending => {}
            }
        }
    }

    /// The state once the save has ended.
    fn ended(&self) -> MutexGuard<'_, State> {
        let state = held(&self.0.state);
        let ended = self.0.changed.wait_while(state, |state| matches!(state, State::Pending));
        ended.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits at most so long until the checkpoint is durable; `None` where it is not by then.
    ///
    /// # Errors
    /// As [`SaveHandle::wait`].
    pub fn wait_for(&self, limit: Duration) -> Option<Result<Arc<Saved>>> {
        self.wait_end(limit).then(|| self.wait())
    }

    /// Waits at most so long for the end of the save, and says whether it has ended. An error
    /// stays untold.
    pub fn wait_end(&self, limit: Duration) -> bool {
        let state = held(&self.0.state);
        let pending = |state: &mut State| matches!(state, State::Pending);
        let waited = self.0.changed.wait_timeout_while(state, limit, pending);
        drop(waited.unwrap_or_else(std::sync::PoisonError::into_inner));
        self.is_done()
    }

    /// How the save ended: what was saved, or what it failed with, which still counts as not reported.
    /// `None` if it has not ended.
    pub fn outcome(&self) -> Option<std::result::Result<Arc<Saved>, Arc<Error>>> {
        match &*held(&self.0.state) {
            State::Pending => None,
            State::Done(saved) => Some(Ok(Arc::clone(saved))),
            State::Failed(error, _) => Some(Err(Arc::clone(error))),
        }
    }

    /// What the save failed with counts as reported, and does not come out of the manager's next call.
    pub fn mark_reported(&self) {
        if let State::Failed(_, told) = &mut *held(&self.0.state) {
            *told = Told::Yes;
        }
    }

    /// The handle of a save that has ended well.
    pub(crate) fn ended_with(saved: Saved) -> Self {
        let handle = Self(Arc::default());
        handle.end(Ok(saved));
        handle
    }

    fn end(&self, outcome: Result<Saved>) {
        *held(&self.0.state) = match outcome {
            Ok(saved) => State::Done(Arc::new(saved)),
            Err(error) => State::Failed(Arc::new(error), Told::No),
        };
        self.0.changed.notify_all();
    }

    /// The error that nobody was told yet; counts as told from now on.
    fn untold(&self) -> Option<Error> {
        match &mut *held(&self.0.state) {
            State::Failed(error, told @ Told::No) => {
                *told = Told::Yes;
                Some(Error::Background(Arc::clone(error)))
            }
            _ => None,
        }
    }
}

/// A save on its way to the thread, with all that it owns.
type Save = dyn FnOnce() -> Result<Saved> + Send;

/// The thread that saves in the background.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: Option<SyncSender<(Box<Save>, SaveHandle)>>,
    thread: Option<JoinHandle<()>>,
    /// Saves whose outcome was not looked at yet.
    handles: Mutex<Vec<SaveHandle>>,
}

impl Writer {
    /// # Errors
    /// Where the system has no thread to give.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, queue): (_, Receiver<(Box<Save>, _)>) = sync_channel(QUEUE);
        let work = move || {
            for (save, handle) in queue {
                let handle: SaveHandle = handle;
                // A caller's source of bytes may panic; whoever waits must be told all the same.
                // What the save owns is gone before anybody is told that it has ended: memory of an
                // interpreter that is about to end, say.
                let panicked = |_| Err(Error::invalid("a save panicked; nothing was published"));
                handle.end(catch_unwind(AssertUnwindSafe(save)).unwrap_or_else(panicked));
            }
        };
        if !room_for_thread() {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        let thread = std::thread::Builder::new().name("scai-save".to_owned()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), handles: Mutex::default() })
    }

    /// Hands a save to the thread; waits while as many as the queue takes are under way.
    pub(crate) fn save(
        &self,
        save: impl FnOnce() -> Result<Saved> + Send + 'static,
    ) -> Result<SaveHandle> {
        self.check()?;
        let handle = SaveHandle(Arc::default());
        let sent = self.jobs.as_ref().map(|jobs| jobs.send((Box::new(save), handle.clone())));
        if !matches!(sent, Some(Ok(()))) {
            return Err(Error::invalid("the save thread has ended"));
        }
        held(&self.handles).push(handle.clone());
        Ok(handle)
    }

    /// The saves that may not have ended yet, in the order in which they end.
    pub(crate) fn handles(&self) -> Vec<SaveHandle> {
        held(&self.handles).clone()
    }

    pub(crate) fn flush(&self) -> Result<()> {
        let pending = held(&self.handles).clone();
        for handle in pending {
            drop(handle.ended());
        }
        self.check()
    }

    /// Forgets the saves that ended; returns the first error that nobody was told.
    fn check(&self) -> Result<()> {
        let mut handles = held(&self.handles);
        while let Some(handle) = handles.first().filter(|handle| handle.is_done()).cloned() {
            handles.remove(0);
            if let Some(error) = handle.untold() {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Waits for the saves that are under way, so that none is lost at the end of a program.
impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
