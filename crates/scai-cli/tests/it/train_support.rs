//! Small trainings, and processes that are watched, signalled and killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use regex::Regex;

use crate::support::Sandbox;

/// Six iterations of tic-tac-toe in less than a second: two blocks, two threads.
pub(crate) const CONFIG: &str = "\
seed: 7
game: tictactoe
model: { num_blocks: 2, channels: 8 }
self_play: { games_per_iteration: 8, parallel_games: 4, simulations: 8, temperature_moves: 4, threads: 2 }
training: { iterations: 6, save_interval: 2, steps_per_iteration: 3, batch_size: 16, warmup_steps: 4 }
replay_buffer: { capacity: 150, min_positions: 20 }
evaluation: { interval: 3, games: 4, simulations: 8, opponents: [random] }
checkpoint: { keep: all }
";

/// A sandbox with a `config.yaml`.
pub(crate) fn sandbox() -> Sandbox {
    with_config(CONFIG)
}

/// A sandbox with this `config.yaml`.
pub(crate) fn with_config(text: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("config.yaml"), text).unwrap();
    sandbox
}

/// A sandbox in which a training has ended.
pub(crate) fn trained() -> Sandbox {
    let sandbox = sandbox();
    assert!(sandbox.output(&["train"]).status.success());
    sandbox
}

/// What a run shows, without what depends on the clock, the machine and the last bit of a sum; the
/// lines about saves, which come when they come, after all others of stdout.
pub(crate) fn redacted(shown: &str) -> String {
    let (out, err) = match shown.find("--- ") {
        Some(at) => shown.split_at(at),
        None => (shown, ""),
    };
    let (saved, others): (Vec<&str>, Vec<&str>) =
        out.lines().partition(|line| line.starts_with("saved "));
    let mut text: String =
        others.into_iter().chain(saved).map(|line| format!("{line}\n")).collect();
    text += err;
    for (pattern, with) in [
        (r"\d+(\.\d+)? ([KMG]i)?B/s", "# MiB/s"),
        (r"\b(write|sync|commit|waited) \d+\.\d m?s", "$1 # ms"),
        (r"(\d+ h )?(\d+ min )?\d+(\.\d+)? s\b", "# s"),
        (r"\d+(\.\d+)? KiB", "# KiB"),
        (r"\d+ positions", "# positions"),
        (r"\bloss \d+\.\d+", "loss #"),
        (r"policy \d+\.\d+", "policy #"),
        (r"value \d+\.\d+", "value #"),
        (r"random \d+%", "random #%"),
        (r"process \d+ on [^)]+", "process # on #"),
        (r"\d+ threads?", "# threads"),
        (r"bytes \d+\.\.\d+", "bytes #..#"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    text
}

/// A training under way.
pub(crate) struct Training {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Training {
    pub(crate) fn start(sandbox: &Sandbox, args: &[&str]) -> Self {
        let mut command = sandbox.command(args);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(sandbox.path("stderr")).unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for a line of stdout that contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended without `{text}`");
        }
    }

    /// Waits for a line of stdout, or the end.
    pub(crate) fn wait_for_any(&mut self) {
        self.lines.read_line(&mut String::new()).unwrap();
    }

    /// Sends it a signal, several times in a row.
    pub(crate) fn signal(&self, name: &str, times: usize) {
        let kill = format!("kill -{name} {}; ", self.child.id()).repeat(times);
        Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn end(mut self) -> ExitStatus {
        // A full pipe would hold it up.
        std::io::copy(&mut self.lines, &mut std::io::sink()).unwrap();
        self.child.wait().unwrap()
    }
}
