//! The asynchronous runtime that requests run on, one for the process.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};
use crate::threads::held;

/// Threads that requests run on; each does the work of many.
const THREADS: usize = 2;

/// Of the process with this number: a fork does not have the threads of its parent.
static RUNTIME: Mutex<Option<(u32, Runtime)>> = Mutex::new(None);

/// The runtime, which is started when it is first used.
///
/// # Errors
/// [`Error::Io`] if its threads cannot be started.
pub(super) fn handle() -> Result<Handle> {
    let mut runtime = held(&RUNTIME);
    let process = std::process::id();
    match &*runtime {
        Some((owner, running)) if *owner == process => return Ok(running.handle().clone()),
        _ => {}
    }
    let started = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("scai-store")
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the threads of the store", error))?;
    let handle = started.handle().clone();
    if let Some((_, parents)) = runtime.replace((process, started)) {
        // Its threads are not in this process, so they cannot be waited for.
        std::mem::forget(parents);
    }
    Ok(handle)
}

/// Waits for a request. The thread may be one of another runtime, which would refuse to wait.
///
/// # Errors
/// [`Error::Io`] if the runtime cannot be started.
pub(super) fn wait<T>(request: impl Future<Output = T>) -> io::Result<T> {
    let handle = handle().map_err(io::Error::other)?;
    let _entered = handle.enter();
    let mut request = pin!(request);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match request.as_mut().poll(&mut context) {
            Poll::Ready(answer) => return Ok(answer),
            Poll::Pending => thread::park(),
        }
    }
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
