//! The terminal: lines that remain, and a bar below them if stderr is one.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::render::{paint, printable, style};

/// For work of known length, and for other work.
const BAR: &str = "{prefix} {msg:18} {bar:30} {pos}/{len} {elapsed:>4}";
const SPINNER: &str = "{prefix} {msg:18} {spinner} {elapsed:>4}";

/// Where a training run is shown. Clones write to the same terminal.
///
/// Output that fails, because a pipe is closed or a disk is full, does not stop training.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    bar: ProgressBar,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { bar: ProgressBar::new(0) }
    }

    /// A line on stdout.
    pub(super) fn print(&self, line: &str) {
        self.bar.suspend(|| {
            let mut out = anstream::stdout();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        });
    }

    /// Text on stderr.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| crate::input::say(text));
    }

    /// Text on stderr that a person should look at.
    pub(super) fn warn(&self, text: &str) {
        self.bar.suspend(|| crate::input::warn(text));
    }

    /// The work in progress; `of` is 0 if the amount is unknown.
    pub(super) fn phase(&self, iteration: &str, what: &str, done: u64, of: u64) {
        if self.bar.message() != what || self.bar.prefix() != iteration {
            let template = if of > 0 { BAR } else { SPINNER };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.reset_elapsed();
            self.bar.set_prefix(iteration.to_owned());
            self.bar.set_message(what.to_owned());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
        self.bar.set_length(of);
        self.bar.set_position(done);
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A heading of a message.
pub(super) fn strong(text: &str) -> String {
    paint(style::BOLD, printable(text))
}
