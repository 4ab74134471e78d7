//! Work on a thread of its own, while the calling one serves Python: callbacks, warnings, Ctrl-C.

use std::any::Any;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning};
use pyo3::prelude::*;
use scai_train::{Error, Event, Stop};
use serde_json::Value as Json;

use super::errors::OrRaise as _;
use super::settings::to_python;
use crate::sync::held;

/// How often signals are looked for.
const TICK: Duration = Duration::from_millis(50);

/// What the working thread tells the calling one.
enum Told {
    Event(Json),
    Warning(String),
}

/// Tells the calling thread, and waits until it has dealt with it.
pub(super) struct Teller {
    told: SyncSender<Told>,
    dealt_with: Mutex<Receiver<()>>,
    /// Whether there is a callback.
    events: bool,
}

impl Teller {
    pub(super) fn tell(&self, event: &Event<'_>) {
        if self.events {
            self.send(Told::Event(event.to_json()));
        }
        match event {
            Event::SaveFailed { iteration, error, .. } => {
                let cause = error.cause();
                self.warn(format!("iteration {iteration} could not be saved: {cause}"));
            }
            Event::Saved { saved, .. } => {
                for warning in &saved.warnings {
                    self.warn(warning.to_string());
                }
            }
            _ => {}
        }
    }

    pub(super) fn warn(&self, message: String) {
        self.send(Told::Warning(message));
    }

    fn send(&self, told: Told) {
        let dealt_with = held(&self.dealt_with);
        // The calling thread listens for as long as this one works.
        if self.told.send(told).is_ok() {
            let _ = dealt_with.recv();
        }
    }
}

/// Does `work` on a thread of its own. Meanwhile `on_event` is called on this thread, and Ctrl-C is
/// heard; an exception of either asks `stop`, and is raised once `work` has ended.
pub(super) fn watched<T: Send>(
    py: Python<'_>,
    on_event: Option<&Py<PyAny>>,
    stop: &Stop,
    work: impl FnOnce(&Teller) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let (told, listening) = sync_channel(0);
    let (deal_with, dealt_with) = sync_channel(1);
    let teller = Teller { told, dealt_with: Mutex::new(dealt_with), events: on_event.is_some() };
    let (result, raised) = py
        .detach(move || {
            std::thread::scope(|scope| {
                // The channel closes with the work.
                let worker = std::thread::Builder::new().spawn_scoped(scope, move || {
                    let teller = teller;
                    work(&teller)
                });
                let worker = worker?;
                let raised = listen(&listening, &deal_with, on_event, stop);
                Ok((worker.join(), raised))
            })
        })
        .map_err(|error: std::io::Error| {
            PyRuntimeError::new_err(format!("cannot start a thread for training: {error}"))
        })?;
    let result = result.map_err(|panic| failed(&*panic));
    let Some(raised) = raised else { return result?.or_raise() };
    match result {
        // It stopped, as it was asked to.
        Ok(Ok(_) | Err(Error::Stopped)) => {}
        Ok(Err(error)) => raised.set_cause(py, Err::<(), _>(error).or_raise().err()),
        Err(panic) => raised.set_cause(py, Some(panic)),
    }
    Err(raised)
}

/// Serves what is told until the channel closes, and gives the first exception there was.
fn listen(
    listening: &Receiver<Told>,
    deal_with: &SyncSender<()>,
    on_event: Option<&Py<PyAny>>,
    stop: &Stop,
) -> Option<PyErr> {
    let mut raised = None;
    loop {
        let told = match listening.recv_timeout(TICK) {
            Ok(told) => Some(told),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return raised,
        };
        let served = Python::attach(|py| {
            // After an exception there is nobody to tell.
            if raised.is_none()
                && let Some(told) = &told
            {
                serve(py, told, on_event)?;
            }
            py.check_signals()
        });
        if let Err(error) = served {
            stop.ask();
            raised.get_or_insert(error);
        }
        if told.is_some() {
            let _ = deal_with.send(());
        }
    }
}

fn serve(py: Python<'_>, told: &Told, on_event: Option<&Py<PyAny>>) -> PyResult<()> {
    match (told, on_event) {
        (Told::Event(event), Some(on_event)) => {
            on_event.call1(py, (to_python(py, event)?,)).map(drop)
        }
        (Told::Event(_), None) => Ok(()),
        (Told::Warning(message), _) => warn(py, message),
    }
}

/// Warns whoever called the function of the package that runs.
pub(super) fn warn(py: Python<'_>, message: &str) -> PyResult<()> {
    const CALLER: i32 = 2;
    let message = CString::new(message.replace('\0', "\u{fffd}"))?;
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, CALLER)
}

/// Does `work` without the interpreter; a panic is an error.
pub(super) fn guarded<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    // The state of a training changes all at once, at the end of what changes it.
    py.detach(|| catch_unwind(AssertUnwindSafe(work))).map_err(|panic| failed(&*panic))
}

fn failed(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    PyRuntimeError::new_err(format!("the trainer panicked: {text}"))
}
