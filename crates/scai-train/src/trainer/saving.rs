//! The saves of a training run: when one is due, which are running, and what is durable.

use std::collections::VecDeque;
use std::time::Duration;

use scai_checkpoint::SaveHandle;

use super::cadence::Cadence;
use crate::config::Training;
use crate::error::Error;
use crate::event::{Event, Observer, Timing};

/// Running saves, oldest first, and the iterations that are durable.
#[derive(Debug)]
pub(super) struct Saves {
    under_way: VecDeque<Save>,
    /// The iteration saved last.
    durable: Option<u64>,
    cadence: Cadence,
    /// Iterations of the whole run.
    iterations: u64,
}

/// A save in the background.
#[derive(Debug)]
struct Save {
    iteration: u64,
    /// Time for which training waited.
    waited: Duration,
    handle: SaveHandle,
}

impl Saves {
    /// No saves yet, in a training run that is at `iteration`.
    pub(super) fn new(config: &Training, iteration: u64) -> Self {
        Self {
            under_way: VecDeque::new(),
            durable: None,
            cadence: Cadence::new(config, iteration),
            iterations: config.iterations,
        }
    }

    /// An iteration is done.
    pub(super) fn observe_iteration(&mut self, timing: Timing) {
        // Without the evaluation: only some iterations have one.
        self.cadence.observe_iteration(timing.self_play + timing.learning);
    }

    /// Whether a save is due after `iteration`.
    pub(super) fn is_due(&self, iteration: u64) -> bool {
        self.cadence.is_due(iteration)
    }

    pub(super) fn started(&mut self, iteration: u64, waited: Duration, handle: SaveHandle) {
        self.cadence.begin_save(iteration, waited);
        self.under_way.push_back(Save { iteration, waited, handle });
    }

    /// A save of `iteration` could not begin.
    pub(super) fn refused(&mut self, iteration: u64, error: &Error, observer: &mut dyn Observer) {
        self.cadence.skip(iteration);
        let next = Some(self.next(iteration, iteration));
        observer.on_event(&Event::SaveFailed { iteration, error, next });
    }

    /// The state after `iteration` was saved while training waited.
    pub(super) fn waited_for(&mut self, iteration: u64) {
        self.cadence.skip(iteration);
    }

    /// Iterations from a save to the next, as currently estimated.
    pub(super) fn interval(&self) -> u64 {
        self.cadence.interval()
    }

    pub(super) fn durable(&mut self, iteration: u64) {
        self.durable = Some(iteration);
    }

    pub(super) fn is_durable(&self, iteration: u64) -> bool {
        self.durable == Some(iteration)
    }

    /// Reports the saves that have ended, at iteration `now` of training that continues.
    pub(super) fn report(&mut self, now: u64, observer: &mut dyn Observer) {
        while let Some(save) = self.under_way.pop_front_if(|save| save.handle.is_done()) {
            let next = self.next(save.iteration, now);
            self.end(&save, next, observer);
        }
    }

    /// Waits for all running saves and reports them, when training ends at iteration `now`.
    pub(super) fn wait(&mut self, now: u64, observer: &mut dyn Observer) {
        while let Some(save) = self.under_way.pop_front() {
            self.end(&save, now, observer);
        }
    }

    /// The iteration to be saved next if the save of `iteration` has failed; the last one is saved
    /// in any case.
    fn next(&self, iteration: u64, now: u64) -> u64 {
        self.cadence.next(iteration.max(now.saturating_sub(1))).min(self.iterations)
    }

    fn end(&mut self, save: &Save, next: u64, observer: &mut dyn Observer) {
        let &Save { iteration, waited, ref handle } = save;
        match handle.wait() {
            Ok(saved) => {
                self.durable(iteration);
                self.cadence.end_save(Some(saved.timeline.total()));
                let interval = self.interval();
                observer.on_event(&Event::Saved { iteration, saved: &saved, waited, interval });
            }
            Err(error) => {
                self.cadence.end_save(None);
                let (error, next) = (Error::from(error), Some(next));
                observer.on_event(&Event::SaveFailed { iteration, error: &error, next });
            }
        }
    }
}
