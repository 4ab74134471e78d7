//! A training run as lines for people.

use std::time::{Duration, Instant};

use scai_checkpoint::Saved;
use scai_train::config::SaveInterval;
use scai_train::{Config, Event, Observer, Timing, TrainingStats};

use super::screen::{Screen, strong};
use super::start::Start;
use super::{End, Show, header, iterations};
use crate::render::{count, counted, number, one_line, paint, size, style};

/// Shows a training run: one line per iteration, and a bar for work in progress.
pub(super) struct Lines {
    screen: Screen,
    /// Iterations of the whole run.
    iterations: u64,
    save_interval: SaveInterval,
    /// Positions before the first step.
    min_positions: u64,
    directory: String,
    /// The configuration file.
    settings: String,
    /// The iteration before.
    before: TrainingStats,
    begun: Instant,
}

impl Lines {
    pub(super) fn new(screen: Screen, config: &Config, settings: String) -> Self {
        Self {
            screen,
            iterations: config.training.iterations,
            save_interval: config.training.save_interval,
            min_positions: config.replay_buffer.min_positions as u64,
            directory: config.checkpoint.directory.clone(),
            settings,
            before: TrainingStats::default(),
            begun: Instant::now(),
        }
    }

    fn phase(&self, iteration: u64, what: &str, done: u64, of: u64) {
        let prefix = format!("iteration {iteration}/{}", self.iterations);
        self.screen.phase(&prefix, what, done, of);
    }

    fn iteration(&self, stats: &TrainingStats, evaluated: bool, timing: Timing) -> String {
        let TrainingStats { total_iterations: iteration, total_games, total_positions, .. } =
            *stats;
        let total = self.iterations.to_string();
        let mut parts = vec![
            format!("iteration {iteration:>width$}/{total}", width = total.len()),
            counted(total_games, "game"),
            format!("{} positions", count(total_positions)),
        ];
        parts.push(match stats.total_steps > self.before.total_steps {
            true => format!(
                "loss {:.3} (policy {:.3}, value {:.3}), lr {}",
                stats.loss,
                stats.policy_loss,
                stats.value_loss,
                rate(stats.learning_rate)
            ),
            false => format!("learning starts at {} positions", count(self.min_positions)),
        });
        if evaluated {
            parts.push(strength(stats));
        }
        parts.push(seconds(timing.self_play + timing.learning + timing.evaluation));
        parts.join("  ")
    }

    fn saved(&self, saved: &Saved, waited: Duration, interval: u64) {
        let timeline = saved.timeline;
        let mut line = format!(
            "saved {} ({}, {}/s): write {}, sync {}, commit {}; training waited {}",
            one_line(&saved.name),
            size(saved.size),
            size(timeline.rate(saved.size) as u64),
            short(timeline.write),
            short(timeline.sync),
            short(timeline.commit),
            short(waited),
        );
        if self.save_interval == SaveInterval::Auto {
            line += &format!("; saving every {}", iterations(interval));
        }
        self.screen.print(&paint(style::DIM, line));
        for warning in &saved.warnings {
            self.screen.warn(&warning.to_string());
        }
    }

    fn save_failed(&self, iteration: u64, error: &scai_train::Error, next: Option<u64>) {
        // If the last try fails, the program ends with this error.
        let Some(next) = next else { return };
        let what = format!("iteration {iteration} could not be saved: {}", error.cause());
        let next = match next == iteration {
            true => "trying once more".to_owned(),
            false => format!("training continues; the next save will be tried at iteration {next}"),
        };
        self.screen.warn(&format!("{what}\n  {next}"));
    }
}

/// The results of an evaluation: `vs random 97%, alphabeta4 35%; optimal moves 71%`.
fn strength(stats: &TrainingStats) -> String {
    let percent = |share: &f64| format!("{:.0}%", share * 100.0);
    let rates = stats.evaluation.iter().filter_map(|(name, share)| {
        Some(format!("{} {}", name.strip_prefix("win_rate_")?, percent(share)))
    });
    let rates: Vec<String> = rates.collect();
    let mut parts = Vec::new();
    if !rates.is_empty() {
        parts.push(format!("vs {}", rates.join(", ")));
    }
    if let Some(share) = stats.evaluation.get("optimal_moves") {
        parts.push(format!("optimal moves {}", percent(share)));
    }
    parts.join("; ")
}

/// A learning rate: enough digits for a small one, without an exponent.
fn rate(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A time as a person reads it.
fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
        whole => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A short time: `0.7 ms`, `1.5 s`.
fn short(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

impl Observer for Lines {
    fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::SelfPlay { iteration, games, of } => {
                self.phase(*iteration, "playing games", *games as u64, *of as u64);
            }
            Event::Learning { iteration, steps, of } => {
                self.phase(*iteration, "learning", *steps, *of);
            }
            Event::Evaluating { iteration, what } => {
                self.phase(*iteration, &format!("measuring: {what}"), 0, 0);
            }
            Event::Iteration { stats, evaluated, timing } => {
                self.screen.print(&self.iteration(stats, *evaluated, *timing));
                self.before = (*stats).clone();
            }
            Event::Saving { iteration, .. } => self.phase(*iteration, "saving", 0, 0),
            Event::Saved { saved, waited, interval, .. } => self.saved(saved, *waited, *interval),
            Event::SaveFailed { iteration, error, next } => {
                self.save_failed(*iteration, error, *next);
            }
            _ => {}
        }
    }
}

impl Show for Lines {
    fn begin(&mut self, config: &Config, start: &Start, parameters: u64) {
        self.before = start.stats().clone();
        self.begun = Instant::now();
        self.screen.say(&header(config, parameters));
        self.screen.say(&start.describe(config));
    }

    fn end(&mut self, end: &End) {
        let iteration = self.before.total_iterations;
        let text = match end {
            End::WasComplete => format!(
                "{}\n  to continue, raise `training.iterations` in `{}`, or pass `--iterations N`; \
                 `--resume never` starts over",
                strong(&format!(
                    "the training is complete: iteration {iteration} of {}",
                    self.iterations
                )),
                self.settings,
            ),
            End::Finished => strong(&format!(
                "finished: {}, {}, loss {}, in {}",
                counted(iteration, "iteration"),
                counted(self.before.total_games, "game"),
                number((self.before.loss * 1e3).round() / 1e3),
                seconds(self.begun.elapsed())
            )),
            End::Stopped(_) if iteration == 0 => {
                strong("stopped before the first iteration was complete: nothing to save")
            }
            End::Stopped(_) => strong(&format!(
                "stopped: iteration {iteration} of {} is saved in `{}`; `scai train` resumes from \
                 there",
                self.iterations,
                one_line(&self.directory)
            )),
        };
        self.screen.say(&text);
    }
}
