//! The saves of a training: which are under way, and what is durable.

use std::collections::VecDeque;

use scai_checkpoint::SaveHandle;

use crate::error::Error;
use crate::event::{Event, Observer};

/// Saves under way, oldest first, and the iterations that are durable.
#[derive(Debug, Default)]
pub(super) struct Saves {
    under_way: VecDeque<(u64, SaveHandle)>,
    /// The iteration saved last.
    durable: Option<u64>,
}

impl Saves {
    pub(super) fn started(&mut self, iteration: u64, handle: SaveHandle) {
        self.under_way.push_back((iteration, handle));
    }

    pub(super) fn durable(&mut self, iteration: u64) {
        self.durable = Some(iteration);
    }

    pub(super) fn is_durable(&self, iteration: u64) -> bool {
        self.durable == Some(iteration)
    }

    /// Reports the saves that have ended.
    pub(super) fn report(&mut self, observer: &mut dyn Observer) {
        while self.under_way.front().is_some_and(|(_, handle)| handle.is_done()) {
            self.end_first(observer);
        }
    }

    /// Waits for all saves under way and reports them.
    pub(super) fn wait(&mut self, observer: &mut dyn Observer) {
        while !self.under_way.is_empty() {
            self.end_first(observer);
        }
    }

    fn end_first(&mut self, observer: &mut dyn Observer) {
        let Some((iteration, handle)) = self.under_way.pop_front() else { return };
        match handle.wait() {
            Ok(saved) => {
                self.durable(iteration);
                observer.on_event(&Event::Saved { iteration, saved: &saved });
            }
            Err(error) => {
                let error = Error::from(error);
                observer.on_event(&Event::SaveFailed { iteration, error: &error });
            }
        }
    }
}
