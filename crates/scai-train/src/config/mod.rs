//! The settings of a run, and the YAML file they come from.
//!
//! Every key may be left out and has a default. What the file says otherwise is an error that names
//! the file, the line, the column and the key: a key that does not exist, a value of another type,
//! a value with which no run could work. All errors of a file are found at once.

mod error;
mod names;
mod sections;

use scai_checkpoint::{Retention, Rule};
use serde::{Deserialize, Serialize};

pub use error::{ConfigError, Problem};
pub use names::{Game, KeepBest, Opponent, Schedule};
pub use sections::{Checkpoint, Evaluation, Logging, Model, ReplayBuffer, SelfPlay, Training};

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Everything random follows from this number.
    pub seed: u64,
    /// The game that is learnt.
    pub game: Game,
    /// Free text; goes into the metadata of every checkpoint.
    pub notes: String,
    /// The size of the network.
    pub model: Model,
    /// How games are played to learn from.
    pub self_play: SelfPlay,
    /// How the network learns from the games.
    pub training: Training,
    /// The positions that are learnt from.
    pub replay_buffer: ReplayBuffer,
    /// Where checkpoints go and which stay.
    pub checkpoint: Checkpoint,
    /// How the strength of the network is measured.
    pub evaluation: Evaluation,
    /// Where the metrics go.
    pub logging: Logging,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            game: Game::default(),
            notes: String::new(),
            model: Model::default(),
            self_play: SelfPlay::default(),
            training: Training::default(),
            replay_buffer: ReplayBuffer::default(),
            checkpoint: Checkpoint::default(),
            evaluation: Evaluation::default(),
            logging: Logging::default(),
        }
    }
}

impl Config {
    /// Which checkpoints stay, by `checkpoint.keep_last`, `keep_every` and `keep_best`.
    pub fn retention(&self) -> Retention {
        let Checkpoint { keep_last, keep_every, keep_best, .. } = &self.checkpoint;
        if *keep_last == 0 {
            return Retention::keep_all();
        }
        let every = (*keep_every > 0).then_some(Rule::Every(*keep_every));
        let best = keep_best.as_ref().map(KeepBest::rule);
        let rules = [Rule::Last(*keep_last)].into_iter().chain(every).chain(best).collect();
        Retention { rules }
    }
}
