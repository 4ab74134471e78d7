//! The metrics of a run: JSON lines for programs, event files for TensorBoard.
//!
//! `metrics.jsonl` has one object per line: `iteration`, `step`, `time` (ISO 8601 with offset) and
//! the values by their names; what is not finite is `null`. The event files have the same values as
//! scalars over the iteration. A slash in a name, as in `loss/policy`, groups it in TensorBoard.
//!
//! A record is passed to the operating system before [`Metrics::record`] returns: a killed process
//! loses nothing. [`Metrics::flush`] flushes it to the device.

mod error;
mod file;
mod json;
mod record;
mod tensorboard;

use std::path::Path;

use jiff::{Timestamp, Zoned};

use crate::config::Logging;
pub use error::MetricsError;
use file::Log;
pub use record::Recorder;

/// The logs of a run, open for writing.
#[derive(Debug)]
pub struct Metrics {
    json: Option<Log>,
    tensorboard: Option<Log>,
}

impl Metrics {
    /// Opens the logs in `directory`, and creates it if it is missing. Only `json` and
    /// `tensorboard` of `logging` are used.
    ///
    /// `resumed_at` is the iteration of the checkpoint that a run continues from. Lines of later
    /// iterations, and a last line that a kill cut short, are removed from `metrics.jsonl`; an event
    /// tells TensorBoard to discard the same. A new run, without `resumed_at`, sets an older
    /// `metrics.jsonl` aside as `metrics.1.jsonl`, or the next free number, and TensorBoard shows
    /// the new run only.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Io`] if a file cannot be read, replaced or created.
    pub fn open(
        directory: impl AsRef<Path>,
        logging: &Logging,
        resumed_at: Option<u64>,
    ) -> Result<Self, MetricsError> {
        let directory = directory.as_ref();
        let mut metrics = Self { json: None, tensorboard: None };
        if !(logging.json || logging.tensorboard) {
            return Ok(metrics);
        }
        file::create_directory(directory)?;
        if logging.json {
            let path = directory.join("metrics.jsonl");
            match resumed_at {
                Some(iteration) => file::rewrite(&path, |lines| json::until(lines, iteration))?,
                None => file::set_aside(&path)?,
            }
            metrics.json = Some(Log::append_to(&path)?);
        }
        if logging.tensorboard {
            let now = Timestamp::now();
            let later = file::names(directory)?
                .iter()
                .filter_map(|name| tensorboard::created_at(name))
                .map(|second| second.saturating_add(1))
                .max();
            // TensorBoard reads the files in the order of their names, and the last one counts.
            let second = now.as_second().max(later.unwrap_or_default());
            let mut log = Log::create(&directory.join(tensorboard::file_name(second)))?;
            let first = resumed_at.map_or(0, |iteration| iteration.saturating_add(1));
            log.append(&tensorboard::start(seconds(now), first))?;
            metrics.tensorboard = Some(log);
        }
        Ok(metrics)
    }

    /// Writes what was measured at the end of an iteration. `step` counts the steps of the
    /// optimizer since the start of the run.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Name`] if a value has the name of a field that every line has; nothing is
    /// written. [`MetricsError::Io`] if a file cannot be written: the other file has the record, and
    /// the next call removes what was written in part.
    pub fn record(
        &mut self,
        iteration: u64,
        step: u64,
        values: &[(&str, f64)],
    ) -> Result<(), MetricsError> {
        let now = Zoned::now();
        if let Some((name, _)) = values.iter().find(|(name, _)| json::FIELDS.contains(name)) {
            return Err(MetricsError::Name { name: (*name).to_owned() });
        }
        let json = self.json.as_mut().map_or(Ok(()), |log| {
            let time = now.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string();
            log.append(&json::line(iteration, step, &time, values))
        });
        let tensorboard = self.tensorboard.as_mut().map_or(Ok(()), |log| {
            log.append(&tensorboard::scalars(seconds(now.timestamp()), iteration, values))
        });
        json.and(tensorboard)
    }

    /// Flushes everything recorded to the device.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Io`] if a device refuses.
    pub fn flush(&mut self) -> Result<(), MetricsError> {
        let flush = |log: &mut Option<Log>| log.as_mut().map_or(Ok(()), Log::flush);
        let json = flush(&mut self.json);
        json.and(flush(&mut self.tensorboard))
    }
}

/// Seconds since 1970.
fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}
