//! The trainer, for the games there are.

mod errors;
mod settings;
mod watch;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, TryLockError};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use scai_games::{ConnectFour, TicTacToe};
use scai_train::config::Game;
use scai_train::metrics::Recorder;
use scai_train::{Config, Ended, Event, LoadOptions, Observer, Restore, Stop, TrainingStats};
use serde_json::{Value as Json, json};

use self::errors::{OrRaise as _, refused};
use self::settings::{from_python, to_python};
use self::watch::{guarded, watched};
use crate::errors::{OrRaise as _, report_dict};
use crate::manager::resumed_dict;
use crate::sync::held;
use crate::tree::options;

/// What errors call settings that come from Python.
const SETTINGS: &str = "the settings";

/// A training by self-play; see `python/scai/training/trainer.py`.
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Trainer {
    config: Config,
    /// Held by the call that is under way.
    any: Mutex<Any>,
    /// The statistics after the last iteration that is done: they can be read at any time.
    stats: Mutex<TrainingStats>,
    /// Asks the training that is under way to stop.
    stop: Mutex<Stop>,
}

/// A training of any game.
enum Any {
    Connect4(Box<scai_train::Trainer<ConnectFour>>),
    TicTacToe(Box<scai_train::Trainer<TicTacToe>>),
}

/// Does the same with a training of any game.
macro_rules! each {
    ($any:expr, $trainer:ident => $what:expr) => {
        match $any {
            Any::Connect4($trainer) => $what,
            Any::TicTacToe($trainer) => $what,
        }
    };
}

#[pymethods]
impl Trainer {
    #[new]
    fn new(py: Python<'_>, file: Option<PathBuf>, layers: Vec<Bound<'_, PyAny>>) -> PyResult<Self> {
        let mut config = match file {
            Some(file) => Config::read(file).map_err(refused)?,
            None => Config::default(),
        };
        for layer in layers {
            config = config.with(&from_python(&layer)?, SETTINGS).map_err(refused)?;
        }
        let of = config.clone();
        let any = guarded(py, || match of.game {
            Game::Connect4 => scai_train::Trainer::new(of).map(Box::new).map(Any::Connect4),
            Game::TicTacToe => scai_train::Trainer::new(of).map(Box::new).map(Any::TicTacToe),
        })?
        .or_raise()?;
        let (stats, stop) = (Mutex::default(), Mutex::default());
        Ok(Self { config, any: Mutex::new(any), stats, stop })
    }

    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &json!(self.config))
    }

    #[getter]
    fn checkpoint_dir(&self) -> &str {
        &self.config.checkpoint.directory
    }

    #[getter]
    fn training_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = json!(*held(&self.stats));
        to_python(py, &stats)
    }

    #[setter]
    fn set_training_stats(&self, py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut any = self.begin()?;
        let any = &mut *any;
        let mut stats = json!(*held(&self.stats));
        let (Json::Object(given), Some(known)) = (from_python(given)?, stats.as_object_mut())
        else {
            let class = given.get_type();
            let message = format!("`training_stats`: expected a mapping, found {}", class.name()?);
            return Err(PyTypeError::new_err(message));
        };
        for (name, value) in given {
            let fits = match known.get(&name) {
                Some(Json::Number(number)) if number.is_u64() => value.is_u64(),
                _ => value.is_number(),
            };
            if !fits {
                let message = format!("`training_stats.{name}`: expected a number, found {value}");
                return Err(PyTypeError::new_err(message));
            }
            known.insert(name, value);
        }
        let stats: TrainingStats = serde_json::from_value(stats)
            .map_err(|error| PyTypeError::new_err(format!("`training_stats`: {error}")))?;
        guarded(py, || each!(any, trainer => trainer.set_training_stats(stats.clone())))?;
        *held(&self.stats) = stats;
        Ok(())
    }

    /// Whether all iterations are done.
    fn train(
        &self,
        py: Python<'_>,
        iterations: Option<u64>,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<bool> {
        let mut any = self.begin()?;
        let any = &mut *any;
        guarded(py, || each!(any, trainer => trainer.manager().claim()))?.or_raise()?;
        let stop = Stop::new();
        *held(&self.stop) = stop.clone();
        let begun = held(&self.stats).clone();
        let last = iterations.map(|more| begun.total_iterations.saturating_add(more));
        if last == Some(begun.total_iterations) {
            return Ok(begun.total_iterations >= self.config.training.iterations);
        }
        let ended = watched(py, on_event.as_ref(), &stop, |teller| {
            let unwritten = |error: &_| {
                teller.warn(format!("{error}; training continues without metrics"));
            };
            let from = (begun.total_iterations > 0).then_some(begun.total_iterations);
            let mut recorder = Recorder::open(&self.config.logging, from, &begun, &unwritten);
            let mut observer = |event: &Event<'_>| {
                recorder.on_event(event);
                if let Event::Iteration { stats, .. } = event {
                    *held(&self.stats) = (*stats).clone();
                    if last == Some(stats.total_iterations) {
                        stop.ask();
                    }
                }
                teller.tell(event);
            };
            let ended = each!(any, trainer => trainer.train(&mut observer, &stop));
            recorder.close();
            ended
        })?;
        Ok(ended == Ended::Finished)
    }

    /// Asks a training that is under way to stop.
    fn stop(&self) {
        held(&self.stop).ask();
    }

    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        settings: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let settings = json!({ "evaluation": from_python(settings)? });
        let evaluation = self.config.with(&settings, SETTINGS).map_err(refused)?.evaluation;
        let any = self.begin()?;
        let any = &*any;
        let stop = Stop::new();
        let results = watched(
            py,
            None,
            &stop,
            |_| each!(any, trainer => trainer.evaluate(&evaluation, &mut |_: &Event<'_>| {}, &stop)),
        )?;
        to_python(py, &json!(results))
    }

    /// The path of the checkpoint.
    fn save_checkpoint(&self, py: Python<'_>, iteration: Option<u64>) -> PyResult<String> {
        let mut any = self.begin()?;
        let any = &mut *any;
        let iteration = iteration.unwrap_or_else(|| held(&self.stats).total_iterations);
        let saved = guarded(py, || each!(any, trainer => trainer.save_checkpoint(iteration)))?;
        let saved = saved.or_raise()?;
        for warning in &saved.warnings {
            watch::warn(py, &warning.to_string())?;
        }
        Ok(saved.path.to_string_lossy().into_owned())
    }

    /// What was loaded of the network and of the optimizer.
    fn load_checkpoint<'py>(
        &self,
        py: Python<'py>,
        path: PathBuf,
        strict: bool,
        network_only: bool,
        remap: Vec<(String, String)>,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
        let mut any = self.begin()?;
        let any = &mut *any;
        let options = LoadOptions {
            matching: options(strict, &remap)?,
            restore: if network_only { Restore::Network } else { Restore::Everything },
            ..LoadOptions::default()
        };
        let restored =
            guarded(py, || each!(any, trainer => trainer.load_checkpoint(&path, &options)))?;
        let restored = restored.or_raise()?;
        self.refresh(any);
        Ok((report_dict(py, &restored.network)?, report_dict(py, &restored.optimizer)?))
    }

    /// As `Manager.resume` gives it.
    fn resume<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let mut any = self.begin()?;
        let any = &mut *any;
        let resumed = guarded(py, || each!(any, trainer => trainer.resume()))?.or_raise()?;
        let Some(at) = resumed else { return Ok(None) };
        self.refresh(any);
        resumed_dict(py, &at.name, at.iteration, at.iterations_lost, &at.skipped).map(Some)
    }
}

impl Trainer {
    /// The training, for one call at a time.
    fn begin(&self) -> PyResult<MutexGuard<'_, Any>> {
        match self.any.try_lock() {
            Ok(any) => Ok(any),
            // A training that has failed is as it was before its last iteration.
            Err(TryLockError::Poisoned(any)) => Ok(any.into_inner()),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "the trainer is busy in another call; wait until that call returns",
            )),
        }
    }

    fn refresh(&self, any: &Any) {
        *held(&self.stats) = each!(any, trainer => trainer.training_stats().clone());
    }
}
