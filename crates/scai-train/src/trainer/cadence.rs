//! When a checkpoint is due: at multiples of a number, or as often as a share of the time allows.
//!
//! With `auto`, a save may cost the share `save_overhead` of the time of the iterations up to the
//! next one. What a save costs is the time for which training waited in its call, and what the
//! iterations beside it took longer than iterations usually take: on the CPU the thread that writes
//! and the training share cores and memory, so the wait alone would be too little. That difference
//! is limited to between 0 and the time the save ran in the background, since it cannot have slowed
//! training by more; so a noisy clock, or iterations that become longer for another reason, cannot
//! make a save look more expensive than one for which training waits until it is done.
//!
//! The cost of a save and the time of an iteration are medians of the last few, as the median of
//! noise that is cut off at a bound is the cut-off median: single outliers have no effect. Nothing
//! of this is saved. A resumed run may be on another machine or disk, so it measures again,
//! beginning with a save after its first iteration; the state it computes does not depend on when
//! it is saved.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::{SaveInterval, Training};

/// Number of iterations and saves in the medians.
const RECENT: usize = 5;

/// How much longer the interval may become with one save. A phase of slow saves cannot delay the
/// next one indefinitely, and any interval is reached after a few saves.
const GROWTH: u64 = 2;

/// When a checkpoint is due.
#[derive(Debug)]
pub(super) enum Cadence {
    /// At multiples of this number.
    Every(u64),
    /// As often as is affordable.
    Auto(Affordable),
}

impl Cadence {
    /// The cadence of a training run that is at `iteration` and is saved, or that begins.
    pub(super) fn new(config: &Training, iteration: u64) -> Self {
        match config.save_interval {
            SaveInterval::Every(iterations) => Self::Every(iterations.max(1)),
            SaveInterval::Auto => Self::Auto(Affordable::new(config.save_overhead, iteration)),
        }
    }

    /// Iterations from a save to the next, as currently estimated.
    pub(super) fn interval(&self) -> u64 {
        match self {
            Self::Every(iterations) => *iterations,
            Self::Auto(affordable) => affordable.interval,
        }
    }

    /// The first iteration after `iteration` at which a save is due, as currently estimated.
    pub(super) fn next(&self, iteration: u64) -> u64 {
        match self {
            Self::Every(n) => (iteration / n).saturating_add(1).saturating_mul(*n),
            Self::Auto(affordable) => affordable.next(iteration),
        }
    }

    /// Whether a save is due after `iteration`. None is due while the cost of one is being measured.
    pub(super) fn is_due(&self, iteration: u64) -> bool {
        let measuring = matches!(self, Self::Auto(affordable) if affordable.under_way.is_some());
        !measuring && iteration > 0 && self.next(iteration - 1) == iteration
    }

    /// An iteration is done that took `time`, without its evaluation.
    pub(super) fn observe_iteration(&mut self, time: Duration) {
        if let Self::Auto(affordable) = self {
            affordable.observe_iteration(time);
        }
    }

    /// A save of `iteration` has begun in the background, for which training waited for `waited`.
    pub(super) fn begin_save(&mut self, iteration: u64, waited: Duration) {
        if let Self::Auto(affordable) = self {
            affordable.begin_save(iteration, waited);
        }
    }

    /// The current save has ended, after `background`; `None` if it failed.
    pub(super) fn end_save(&mut self, background: Option<Duration>) {
        if let Self::Auto(affordable) = self {
            affordable.end_save(background);
        }
    }

    /// `iteration` was saved, or failed to be, in a way that says nothing about the cost.
    pub(super) fn skip(&mut self, iteration: u64) {
        if let Self::Auto(affordable) = self {
            affordable.last = iteration;
        }
    }
}

/// The interval at which saving costs no more than a share of the time.
#[derive(Debug)]
pub(super) struct Affordable {
    /// The share of the time that saving may cost.
    overhead: f64,
    interval: u64,
    /// The iteration of the last save or attempt.
    last: u64,
    under_way: Option<UnderWay>,
    /// What the last iterations took, in seconds, or would have taken without a save beside them.
    iterations: Recent,
    /// What the last saves cost, in seconds.
    costs: Recent,
}

/// A running save, and the iterations beside it.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    waited: Duration,
    iterations: u32,
    time: Duration,
}

impl Affordable {
    fn new(overhead: f64, iteration: u64) -> Self {
        let (iterations, costs) = (Recent::default(), Recent::default());
        Self { overhead, interval: 1, last: iteration, under_way: None, iterations, costs }
    }

    fn next(&self, iteration: u64) -> u64 {
        self.last.saturating_add(self.interval).max(iteration.saturating_add(1))
    }

    fn observe_iteration(&mut self, time: Duration) {
        match &mut self.under_way {
            Some(beside) => {
                beside.iterations = beside.iterations.saturating_add(1);
                beside.time = beside.time.saturating_add(time);
            }
            None => self.iterations.push(time.as_secs_f64()),
        }
    }

    fn begin_save(&mut self, iteration: u64, waited: Duration) {
        self.last = iteration;
        self.under_way = Some(UnderWay { waited, iterations: 0, time: Duration::ZERO });
    }

    fn end_save(&mut self, background: Option<Duration>) {
        let (Some(save), Some(background)) = (self.under_way.take(), background) else { return };
        if save.iterations == 0 {
            // Training waited for all of it, as it does at its end.
            return;
        }
        let (count, time) = (f64::from(save.iterations), save.time.as_secs_f64());
        let usual = self.iterations.median() * count;
        let longer = (time - usual).clamp(0.0, background.as_secs_f64());
        // If every iteration is saved, there are no others to compare with.
        self.iterations.push((time - longer) / count);
        self.costs.push(save.waited.as_secs_f64() + longer);
        self.interval = self.affordable().min(self.interval.saturating_mul(GROWTH));
    }

    /// The shortest interval at which the cost of a save is within the share; at least 1.
    fn affordable(&self) -> u64 {
        let of_an_iteration = self.costs.median() / (self.overhead * self.iterations.median());
        // A cast of NaN gives 0, and of a value that is too large the largest number.
        (of_an_iteration.ceil() as u64).max(1)
    }
}

/// The last few of a series.
#[derive(Debug, Default)]
struct Recent(VecDeque<f64>);

impl Recent {
    fn push(&mut self, value: f64) {
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The median, of an even number the smaller one in the middle; 0 if there are no values.
    fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
