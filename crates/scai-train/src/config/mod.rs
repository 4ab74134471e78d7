//! The settings of a run, and the YAML file they come from.
//!
//! Every key may be left out and has a default. Anything else in the file is an error that names
//! the file, the line, the column and the key: a key that does not exist, a value of another type,
//! a value with which no run could work. All errors of a file are found at once.

mod check;
mod error;
mod file;
mod interval;
mod names;
mod read;
mod sections;
mod tree;

use std::path::Path;

use scai_checkpoint::Retention;
use serde::{Deserialize, Serialize};

pub use error::{ConfigError, Problem};
pub use interval::SaveInterval;
pub use names::{Game, Opponent, Schedule};
pub use sections::{Checkpoint, Evaluation, Logging, Model, ReplayBuffer, SelfPlay, Training};

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The seed of everything random.
    pub seed: u64,
    /// The game to learn.
    pub game: Game,
    /// Free text, saved in the metadata of every checkpoint.
    pub notes: String,
    /// The size of the network.
    pub model: Model,
    /// How self-play games are played.
    pub self_play: SelfPlay,
    /// How the network learns from the games.
    pub training: Training,
    /// The positions to learn from.
    pub replay_buffer: ReplayBuffer,
    /// Where checkpoints are saved and which are kept.
    pub checkpoint: Checkpoint,
    /// How the strength of the network is measured.
    pub evaluation: Evaluation,
    /// Where the metrics are written.
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

/// Problems that are reported at once. A file that is meant for something else has very many.
const MOST_PROBLEMS: usize = 20;

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or [`Config::from_yaml`] refuses it.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let name = path.as_ref().display().to_string();
        let text = file::read(path.as_ref(), &name)?;
        Self::from_yaml(&text, &name)
    }

    /// Reads YAML 1.2. Missing keys have their defaults; an empty text means all defaults.
    ///
    /// `name` is what errors call the text.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] with the first error of the syntax; or, if there is none, all keys
    /// and types that are wrong; or, if there are none, all values with which no run could work.
    pub fn from_yaml(text: &str, name: &str) -> Result<Self, ConfigError> {
        let tree = tree::parse(text).map_err(|problem| ConfigError::Invalid {
            name: name.to_owned(),
            problems: vec![problem],
        })?;
        Self::from_tree(tree, name)
    }

    /// These settings, overridden by `settings`, which has the nesting of the file.
    /// `checkpoint.keep` takes the place of all rules of retention.
    ///
    /// `name` is what errors call `settings`.
    ///
    /// # Errors
    ///
    /// As [`Config::from_yaml`], with keys but without lines.
    pub fn with(&self, settings: &serde_json::Value, name: &str) -> Result<Self, ConfigError> {
        let mut below = self.clone();
        if settings.pointer("/checkpoint/keep").is_some_and(|keep| !keep.is_null()) {
            let Checkpoint { keep_last, keep_every, keep_best, .. } = &mut below.checkpoint;
            (*keep_last, *keep_every, *keep_best) = (None, None, None);
        }
        let mut tree = tree::Content::from(&serde_json::json!(below));
        tree.overlay(settings.into());
        Self::from_tree(tree::without_place(tree), name)
    }

    fn from_tree(mut tree: tree::Node, name: &str) -> Result<Self, ConfigError> {
        let invalid = |problems| ConfigError::Invalid { name: name.to_owned(), problems };
        let mut problems = Vec::new();
        // Invalid entries are removed, and the rest is read again, until none is left.
        let config = loop {
            let fault = match Self::deserialize(read::Reader(&tree)) {
                Ok(config) => break config,
                Err(fault) => fault.at(tree.referenced),
            };
            let positions = fault.positions();
            problems.push(fault.into_problem(&all_keys()));
            if positions.is_empty() || problems.len() == MOST_PROBLEMS {
                return Err(invalid(problems));
            }
            tree.value.remove(&positions);
        };
        if problems.is_empty() {
            problems = config.misfits(|key| tree::line_and_column(tree.value.get(key)?.referenced));
        }
        if problems.is_empty() { Ok(config) } else { Err(invalid(problems)) }
    }

    /// Checks the values, as [`Config::from_yaml`] does: for settings that come from elsewhere.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] with all values with which no run could work.
    pub fn validate(&self, name: &str) -> Result<(), ConfigError> {
        let problems = self.misfits(|_| None);
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Invalid { name: name.to_owned(), problems })
    }

    /// What is wrong with the values, in the order of the file; `place` returns line and column of
    /// a key, if it has any.
    fn misfits(&self, place: impl Fn(&str) -> Option<(u64, u64)>) -> Vec<Problem> {
        let problem = |misfit: check::Misfit| {
            let place = misfit.keys.iter().find_map(|key| place(key));
            let (line, column) = place.unzip();
            Problem { line, column, message: misfit.message }
        };
        let mut problems: Vec<Problem> = check::misfits(self).into_iter().map(problem).collect();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }

    /// Steps of the optimizer in the whole run, which the learning rate's schedule covers.
    pub fn total_steps(&self) -> u64 {
        self.training.iterations.saturating_mul(self.training.steps_per_iteration)
    }

    /// Which checkpoints to keep, from `checkpoint.keep` and the keys beside it.
    ///
    /// # Errors
    /// As [`Config::validate`], which finds the same.
    pub fn retention(&self) -> Result<Retention, scai_checkpoint::Error> {
        self.checkpoint.retention().map_err(|(_, error)| error)
    }
}

/// The paths of all keys, such as `training.batch_size`.
fn all_keys() -> Vec<String> {
    let Ok(serde_json::Value::Object(sections)) = serde_json::to_value(Config::default()) else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for (section, value) in sections {
        if let serde_json::Value::Object(keys) = value {
            paths.extend(keys.keys().map(|key| format!("{section}.{key}")));
        }
        paths.push(section);
    }
    paths
}
