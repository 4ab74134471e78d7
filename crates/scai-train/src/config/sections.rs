//! The sections of the file. Their doc comments are the documentation of the keys.

use serde::{Deserialize, Serialize};

use super::interval::SaveInterval;
use scai_checkpoint::Retention;
use scai_checkpoint::retention::Rule;

use super::names::{Opponent, Schedule};

/// `model`: the size of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Residual blocks of the backbone; at least 1.
    pub num_blocks: usize,
    /// Channels of every convolution of the backbone; at least 1.
    pub channels: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self { num_blocks: 4, channels: 32 }
    }
}

/// `self_play`: how self-play games are played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelfPlay {
    /// Games finished in an iteration; at least 1.
    pub games_per_iteration: usize,
    /// Games that search together and share one batch of the network; at least 1.
    pub parallel_games: usize,
    /// Simulations of the tree search for each move; at least 1.
    pub simulations: usize,
    /// Weight of exploration in the search: the constant of PUCT; above 0.
    pub c_puct: f64,
    /// Concentration of the Dirichlet noise on the priors of the root; above 0. The smaller, the
    /// fewer moves get most of the noise.
    pub dirichlet_alpha: f64,
    /// Share of the noise in the priors of the root, from 0 (none) to 1 (nothing but noise).
    pub dirichlet_fraction: f64,
    /// Moves are drawn in proportion to their visits to the power of 1 / `temperature`; 0 takes
    /// the most visited move.
    pub temperature: f64,
    /// Plies of a game that are played by `temperature`; after them the most visited move is taken.
    pub temperature_moves: usize,
    /// Threads; 0 means one per core. They do not affect the result.
    pub threads: usize,
}

impl Default for SelfPlay {
    fn default() -> Self {
        Self {
            games_per_iteration: 64,
            parallel_games: 32,
            simulations: 64,
            c_puct: 1.5,
            dirichlet_alpha: 1.0,
            dirichlet_fraction: 0.25,
            temperature: 1.0,
            temperature_moves: 12,
            threads: 0,
        }
    }
}

/// `training`: how the network learns from the games.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Iterations of the whole run, of self-play and learning each; at least 1.
    pub iterations: u64,
    /// Iterations between checkpoints, at least 1; or `auto`: as often as `save_overhead` allows.
    pub save_interval: SaveInterval,
    /// Share of the time that saving may cost with `save_interval: auto`; above 0 and at most 1.
    /// Unused if `save_interval` is a number.
    pub save_overhead: f64,
    /// Steps of the optimizer in an iteration; at least 1.
    pub steps_per_iteration: u64,
    /// Positions in a step; at least 1 and at most `replay_buffer.capacity`.
    pub batch_size: usize,
    /// Learning rate at the end of the warm-up; above 0.
    pub learning_rate: f64,
    /// Learning rate at the last step of the schedule; from 0 to `learning_rate`. The constant
    /// schedule does not use it.
    pub final_learning_rate: f64,
    /// Steps in which the learning rate rises from 0 to `learning_rate`.
    pub warmup_steps: u64,
    /// The course of the learning rate over `iterations` times `steps_per_iteration` steps.
    pub schedule: Schedule,
    /// Decay of the weights in a step, decoupled from the gradient (AdamW), as a multiple of the
    /// learning rate; 0 or more.
    pub weight_decay: f64,
    /// Weight of the value loss relative to the policy loss; 0 or more.
    pub value_loss_weight: f64,
    /// Each sample is seen in a random symmetry of the game.
    pub augment: bool,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            iterations: 100,
            save_interval: SaveInterval::Every(10),
            save_overhead: 0.01,
            steps_per_iteration: 40,
            batch_size: 256,
            learning_rate: 0.002,
            final_learning_rate: 0.0002,
            warmup_steps: 100,
            schedule: Schedule::Cosine,
            weight_decay: 0.0001,
            value_loss_weight: 1.0,
            augment: true,
        }
    }
}

/// `replay_buffer`: the positions to learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayBuffer {
    /// Positions that are kept; the oldest are dropped first. At least 1.
    pub capacity: usize,
    /// Positions that must be there before the first step; at most `capacity`.
    pub min_positions: usize,
}

impl Default for ReplayBuffer {
    fn default() -> Self {
        Self { capacity: 60_000, min_positions: 2000 }
    }
}

/// `checkpoint`: where checkpoints are saved and which are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// The directory of the checkpoints, relative to the working directory.
    pub directory: String,
    /// Which checkpoints to keep, as retention rules: `last:5, every:100, best:loss:min`, or `all`.
    /// Without this and the keys below, the newest five.
    pub keep: Option<Retention>,
    /// Keep the newest N: `last:N`.
    pub keep_last: Option<u64>,
    /// Keep those whose iteration is a multiple of N: `every:N`.
    pub keep_every: Option<u64>,
    /// Keep the best by a statistic: `best:STAT:min|max[:N]`, without `best:`.
    pub keep_best: Option<String>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            directory: "checkpoints".to_owned(),
            keep: None,
            keep_last: None,
            keep_every: None,
            keep_best: None,
        }
    }
}

impl Checkpoint {
    /// What is kept by default.
    const KEEP: &str = "last:5";

    /// The rules that the keys stand for, each of which keeps some.
    ///
    /// # Errors
    /// For a number of 0, and a statistic without `min` or `max`; with the key.
    pub(super) fn retention(&self) -> Result<Retention, (&'static str, scai_checkpoint::Error)> {
        let Self { keep, keep_last, keep_every, keep_best, .. } = self;
        let sugar = [
            ("checkpoint.keep_last", keep_last.map(|count| format!("last:{count}"))),
            ("checkpoint.keep_every", keep_every.map(|step| format!("every:{step}"))),
            ("checkpoint.keep_best", keep_best.as_ref().map(|best| format!("best:{best}"))),
        ];
        let mut rules: Vec<String> = keep.iter().map(ToString::to_string).collect();
        for (key, text) in sugar {
            let Some(text) = text else { continue };
            text.parse::<Rule>().map_err(|error| (key, error))?;
            rules.push(text);
        }
        if rules.is_empty() {
            rules.push(Self::KEEP.to_owned());
        }
        Retention::of_rules(&rules).map_err(|error| ("checkpoint.keep", error))
    }
}

/// `evaluation`: how the strength of the network is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Iterations between evaluations; 0: never.
    pub interval: u64,
    /// Games against each opponent, half of them moving first; an even number.
    pub games: usize,
    /// Simulations of the tree search for each move; at least 1.
    pub simulations: usize,
    /// Whom to play.
    pub opponents: Vec<Opponent>,
    /// Measure the share of positions in which the network's move is one that a solver would play.
    /// Connect Four only.
    pub positions: bool,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            interval: 10,
            games: 40,
            simulations: 64,
            opponents: vec![Opponent::Random, Opponent::AlphaBeta { depth: 4 }],
            positions: true,
        }
    }
}

/// `logging`: where the metrics are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// The directory of the logs, relative to the working directory.
    pub directory: String,
    /// Write `metrics.jsonl`: one JSON object per line.
    pub json: bool,
    /// Write event files for TensorBoard.
    pub tensorboard: bool,
}

impl Default for Logging {
    fn default() -> Self {
        Self { directory: "logs".to_owned(), json: true, tensorboard: true }
    }
}
