//! What happens during training, for code that shows or records it.

use std::sync::Arc;
use std::time::Duration;

use scai_checkpoint::Saved;
use serde_json::{Value as Json, json};

use crate::error::Error;
use crate::stats::TrainingStats;

/// Something that happened during training.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Progress of self-play: games finished, of the total. The first is 0.
    SelfPlay {
        /// The current iteration.
        iteration: u64,
        /// Games finished.
        games: usize,
        /// Games of the iteration.
        of: usize,
    },
    /// Progress of learning: steps done, of the total. The first is 0.
    Learning {
        /// The current iteration.
        iteration: u64,
        /// Steps done.
        steps: u64,
        /// Steps of the iteration.
        of: u64,
    },
    /// An evaluation has begun.
    Evaluating {
        /// The current iteration.
        iteration: u64,
        /// Against whom, or on what.
        what: &'a str,
    },
    /// An iteration is done.
    Iteration {
        /// The statistics after it.
        stats: &'a TrainingStats,
        /// Whether it ended with an evaluation.
        evaluated: bool,
        /// Time its parts took.
        timing: Timing,
    },
    /// A save in the background has begun.
    Saving {
        /// The iteration that is saved.
        iteration: u64,
        /// Time for which training waited.
        waited: Duration,
    },
    /// A checkpoint is durable.
    Saved {
        /// The iteration that was saved.
        iteration: u64,
        /// The file, the time its stages took, and what retention did.
        saved: &'a Arc<Saved>,
        /// Time for which training waited: in the call, if it was saved in the background.
        waited: Duration,
        /// Iterations from one save to the next, as currently estimated.
        interval: u64,
    },
    /// A save failed. Training continues.
    SaveFailed {
        /// The iteration that could not be saved.
        iteration: u64,
        /// Why.
        error: &'a Error,
        /// The iteration of the next attempt to save, at the end the same one; `None` after the
        /// last attempt.
        next: Option<u64>,
    },
}

impl Event<'_> {
    /// The event as an object for programs: `event` says which, times are in milliseconds, rates in
    /// 10⁹ bytes per second.
    pub fn to_json(&self) -> Json {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        match self {
            Event::SelfPlay { iteration, games, of } => {
                json!({"event": "self_play", "iteration": iteration, "games": games, "of": of})
            }
            Event::Learning { iteration, steps, of } => {
                json!({"event": "learning", "iteration": iteration, "steps": steps, "of": of})
            }
            Event::Evaluating { iteration, what } => {
                json!({"event": "evaluating", "iteration": iteration, "what": what})
            }
            Event::Iteration { stats, evaluated, timing } => json!({
                "event": "iteration",
                "iteration": stats.total_iterations,
                "evaluated": evaluated,
                "training_stats": stats,
                "self_play_ms": ms(timing.self_play),
                "learning_ms": ms(timing.learning),
                "evaluation_ms": ms(timing.evaluation),
            }),
            Event::Saving { iteration, waited } => {
                json!({"event": "saving", "iteration": iteration, "waited_ms": ms(*waited)})
            }
            Event::Saved { iteration, saved, waited, interval } => json!({
                "event": "saved",
                "iteration": iteration,
                "name": saved.name,
                "path": saved.path,
                "size": saved.size,
                "waited_ms": ms(*waited),
                "plan_ms": ms(saved.timeline.plan),
                "write_ms": ms(saved.timeline.write),
                "sync_ms": ms(saved.timeline.sync),
                "commit_ms": ms(saved.timeline.commit),
                "after_ms": ms(saved.timeline.after),
                "gb_per_s": saved.timeline.rate(saved.size) / 1e9,
                "interval": interval,
                "removed": saved.removed,
                "warnings": saved.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }),
            Event::SaveFailed { iteration, error, next } => json!({
                "event": "save_failed",
                "iteration": iteration,
                "error": error.cause(),
                "next": next,
            }),
        }
    }
}

/// Time the parts of an iteration took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Games of self-play.
    pub self_play: Duration,
    /// Steps of the optimizer.
    pub learning: Duration,
    /// Games and positions of the evaluation.
    pub evaluation: Duration,
}

/// Receives the events of a training run.
///
/// ```
/// use scai_train::{Event, Observer};
///
/// // A closure is one.
/// let mut print = |event: &Event<'_>| {
///     if let Event::Iteration { stats, .. } = event {
///         println!("iteration {}: loss {:.3}", stats.total_iterations, stats.loss);
///     }
/// };
/// fn observed(observer: &mut dyn Observer) {}
/// observed(&mut print);
/// ```
pub trait Observer: Send {
    /// Something happened.
    fn on_event(&mut self, event: &Event<'_>);
}

impl<F: FnMut(&Event<'_>) + Send> Observer for F {
    fn on_event(&mut self, event: &Event<'_>) {
        self(event);
    }
}
