//! The metrics of training, written at the end of every iteration.
//!
//! A save is recorded with the iteration after which it was found to be durable.

use std::time::Duration;

use scai_checkpoint::Saved;

use super::{Metrics, MetricsError};
use crate::config::Logging;
use crate::event::{Event, Observer, Timing};
use crate::stats::TrainingStats;

/// Writes the metrics. A write error is reported once and does not stop training; nothing more is
/// recorded then.
pub struct Recorder<'a> {
    metrics: Option<Metrics>,
    /// The iteration before.
    before: TrainingStats,
    pending: Option<Pending>,
    tell: &'a (dyn Fn(&MetricsError) + Sync),
}

/// An iteration that is done. Saves may be reported until the next one begins; its record has the
/// last of them.
struct Pending {
    stats: TrainingStats,
    values: Vec<(String, f64)>,
    save: Vec<(&'static str, f64)>,
}

impl<'a> Recorder<'a> {
    /// Opens the logs, as [`Metrics::open`] does. `stats` are the current ones; `tell` is called
    /// with what cannot be written.
    pub fn open(
        logging: &Logging,
        resumed_at: Option<u64>,
        stats: &TrainingStats,
        tell: &'a (dyn Fn(&MetricsError) + Sync),
    ) -> Self {
        let metrics = Metrics::open(&logging.directory, logging, resumed_at);
        let mut recorder = Self { metrics: None, before: stats.clone(), pending: None, tell };
        match metrics {
            Ok(metrics) => recorder.metrics = Some(metrics),
            Err(error) => recorder.give_up(&error),
        }
        recorder
    }

    fn give_up(&mut self, error: &MetricsError) {
        self.metrics = None;
        (self.tell)(error);
    }

    /// Writes what is pending.
    fn write(&mut self) {
        let Some(Pending { stats, values, save }) = self.pending.take() else { return };
        let Some(metrics) = &mut self.metrics else { return };
        let values = values.iter().map(|(name, value)| (name.as_str(), *value));
        let values: Vec<(&str, f64)> = values.chain(save).collect();
        let recorded = metrics.record(stats.total_iterations, stats.total_steps, &values);
        if let Err(error) = recorded {
            self.give_up(&error);
        }
    }

    /// Writes what is left, and waits until it is on the device.
    pub fn close(&mut self) {
        self.write();
        if let Some(Err(error)) = self.metrics.as_mut().map(Metrics::flush) {
            self.give_up(&error);
        }
    }
}

impl Observer for Recorder<'_> {
    fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::Iteration { stats, evaluated, timing } => {
                self.write();
                let values = values(&self.before, stats, *evaluated, *timing);
                self.before = (*stats).clone();
                self.pending = Some(Pending { stats: (*stats).clone(), values, save: Vec::new() });
            }
            Event::Saved { saved, waited, interval, .. } => {
                if let Some(pending) = &mut self.pending {
                    pending.save = save_values(saved, *waited, *interval);
                }
            }
            Event::SelfPlay { .. } => self.write(),
            _ => {}
        }
    }
}

/// What is recorded about a save.
fn save_values(saved: &Saved, waited: Duration, interval: u64) -> Vec<(&'static str, f64)> {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let timeline = saved.timeline;
    vec![
        ("save/waited_ms", ms(waited)),
        ("save/plan_ms", ms(timeline.plan)),
        ("save/write_ms", ms(timeline.write)),
        ("save/sync_ms", ms(timeline.sync)),
        ("save/commit_ms", ms(timeline.commit)),
        ("save/after_ms", ms(timeline.after)),
        ("save/bytes", saved.size as f64),
        ("save/gb_per_s", timeline.rate(saved.size) / 1e9),
        ("save/interval", interval as f64),
    ]
}

/// What is recorded about an iteration.
fn values(
    before: &TrainingStats,
    stats: &TrainingStats,
    evaluated: bool,
    timing: Timing,
) -> Vec<(String, f64)> {
    let seconds = [timing.self_play, timing.learning, timing.evaluation].map(|t| t.as_secs_f64());
    let [playing, learning, evaluating] = seconds;
    let positions = (stats.total_positions - before.total_positions) as f64;
    let steps = (stats.total_steps - before.total_steps) as f64;
    let per_second = |count: f64, seconds: f64| count / seconds.max(1e-9);
    let mut values: Vec<(&str, f64)> = vec![
        ("games/total", stats.total_games as f64),
        ("games/positions", stats.total_positions as f64),
        ("games/length", stats.game_length),
        ("games/first_player_rate", stats.first_player_rate),
        ("speed/positions_per_second", per_second(positions, playing)),
        ("time/self_play_s", playing),
        ("time/learning_s", learning),
    ];
    if steps > 0.0 {
        values.extend([
            ("loss/total", stats.loss),
            ("loss/policy", stats.policy_loss),
            ("loss/value", stats.value_loss),
            ("learning_rate", stats.learning_rate),
            ("speed/steps_per_second", per_second(steps, learning)),
        ]);
    }
    let mut values: Vec<(String, f64)> =
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    if evaluated {
        values.push(("time/evaluation_s".to_owned(), evaluating));
        let results = stats.evaluation.iter();
        values.extend(results.map(|(name, value)| (format!("evaluation/{name}"), *value)));
    }
    values
}
