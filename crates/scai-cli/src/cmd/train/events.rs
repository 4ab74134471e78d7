//! A training run as JSON, one object per event.

use scai_train::{BACKEND, Config, Event, Observer};
use serde_json::{Value as Json, json};

use super::screen::Screen;
use super::start::Start;
use super::{End, Show, game, settings};

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
        self.print(&event.to_json());
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
