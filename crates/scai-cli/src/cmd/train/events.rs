//! A training as JSON, one object an event.

use scai_train::{BACKEND, Config, Event, Observer};
use serde_json::{Value as Json, json};

use super::screen::Screen;
use super::start::Start;
use super::{End, Show, cause, game, settings};

/// Prints an object for each event.
pub(super) struct Events {
    screen: Screen,
}

impl Events {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen }
    }

    fn print(&self, event: &Json) {
        self.screen.print(&event.to_string());
    }
}

impl Observer for Events {
    fn on_event(&mut self, event: &Event<'_>) {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        self.print(&match event {
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
            Event::Saved { iteration, saved } => json!({
                "event": "saved",
                "iteration": iteration,
                "name": saved.name,
                "path": saved.path,
                "size": saved.size,
                "removed": saved.removed,
                "warnings": saved.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }),
            Event::SaveFailed { iteration, error } => {
                json!({"event": "save_failed", "iteration": iteration, "error": cause(error)})
            }
            _ => return,
        });
    }
}

impl Show for Events {
    fn begin(&mut self, config: &Config, start: &Start, parameters: u64) {
        self.print(&json!({
            "event": "begin",
            "game": game(config),
            "parameters": parameters,
            "backend": BACKEND,
            "threads": settings::threads(config),
            "directory": config.checkpoint.directory,
            "iterations": config.training.iterations,
            "iteration": start.iteration(),
            "from": start.from(),
        }));
    }

    fn end(&mut self, end: &End) {
        self.print(&match end {
            End::WasComplete => json!({"event": "end", "how": "was_complete"}),
            End::Finished => json!({"event": "end", "how": "finished"}),
            End::Stopped(signal) => json!({"event": "end", "how": "stopped", "signal": signal}),
        });
    }
}
