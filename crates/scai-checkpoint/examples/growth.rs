//! How the cost of each operation grows: with bytes, with tensors, with checkpoints in a directory.
//!
//! ```sh
//! make bench-growth
//! cargo run --release -p scai-checkpoint --example growth -- \
//!     [--quick] [--directory=DIRECTORY] [--max-bytes=BYTES] [bytes] [tensors] [checkpoints]
//! ```
//!
//! Prints a line of JSON for each operation and size: the median time, the best, and how many times
//! it was done. `docs/plot_growth.py` draws them. The sizes take turns, so that what else the
//! machine does hits all alike. Files lie in `DIRECTORY` (`target` where none is named), which
//! should be on the disk in question; all are removed. A size for which there is no room on the
//! disk or in memory is left out, which is said.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement beside the engine: plain files, plain output, no recovery"
)]

#[path = "growth/bytes.rs"]
mod bytes;
#[path = "growth/checkpoints.rs"]
mod checkpoints;
#[path = "support/states.rs"]
mod states;
#[path = "growth/tensors.rs"]
mod tensors;
#[path = "support/timing.rs"]
mod timing;
#[path = "support/training.rs"]
mod training;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

/// What is measured, and where.
struct Settings {
    directory: PathBuf,
    /// Smaller sizes and fewer rounds, to see that it works.
    quick: bool,
    /// The largest state.
    max_bytes: u64,
}

/// How long each operation took at each size.
#[derive(Default)]
struct Points(Vec<(&'static str, u64, Vec<Duration>)>);

impl Points {
    fn add(&mut self, operation: &'static str, size: u64, time: Duration) {
        match self.0.iter_mut().find(|point| (point.0, point.1) == (operation, size)) {
            Some(point) => point.2.push(time),
            None => self.0.push((operation, size, vec![time])),
        }
    }

    fn print(&self, sweep: &str) {
        for (operation, size, times) in &self.0 {
            let [median, best] = timing::median_and_best(times).map(|time| time.as_secs_f64());
            let line = json!({
                "sweep": sweep, "operation": operation, "size": size,
                "median_s": median, "best_s": best, "rounds": times.len(),
            });
            println!("{line}");
        }
    }
}

/// A sweep: its name, and what measures it.
type Sweep = (&'static str, fn(&Settings) -> Points);

const SWEEPS: [Sweep; 3] =
    [("bytes", bytes::sweep), ("tensors", tensors::sweep), ("checkpoints", checkpoints::sweep)];

/// 1, 3, 10, 30 and so on up to `largest`.
fn half_decades(largest: u64) -> Vec<u64> {
    let sizes = (0..).flat_map(|power| [1, 3].map(|factor| factor * 10_u64.pow(power)));
    sizes.take_while(|&size| size <= largest).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let quick = option("--quick").is_some();
    let max_bytes = option("--max-bytes=").map(|bytes| bytes.parse().unwrap());
    let parent = option("--directory=").unwrap_or("target");
    let directory = tempfile::tempdir_in(parent).unwrap();
    let settings = Settings {
        directory: directory.path().to_owned(),
        quick,
        max_bytes: max_bytes.unwrap_or(if quick { 64 << 20 } else { 8 << 30 }),
    };
    let named: Vec<&String> = arguments.iter().filter(|name| !name.starts_with("--")).collect();
    for (name, sweep) in SWEEPS {
        if named.is_empty() || named.iter().any(|chosen| *chosen == name) {
            sweep(&settings).print(name);
        }
    }
}
