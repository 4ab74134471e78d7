//! The statistics of a training run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The statistics of a training run, as saved in `training_stats` of a checkpoint.
///
/// All of them follow from the seed and the configuration; what depends on the clock is in the metadata.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingStats {
    /// Iterations done.
    pub total_iterations: u64,
    /// Games of self-play finished.
    pub total_games: u64,
    /// Positions of these games.
    pub total_positions: u64,
    /// Steps of the optimizer.
    pub total_steps: u64,
    /// Policy and value loss together, mean of the last iteration that had steps.
    pub loss: f64,
    /// Cross-entropy of the policy in nats, mean of the last iteration that had steps.
    pub policy_loss: f64,
    /// Mean squared error of the value, mean of the last iteration that had steps.
    pub value_loss: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Plies of a game, mean of the last iteration.
    pub game_length: f64,
    /// Share of the last iteration's games that the first player won; draws count half.
    pub first_player_rate: f64,
    /// Results of the last evaluation, such as `win_rate_random` (a draw counts half) and
    /// `optimal_moves`, the share of solved positions that are played perfectly.
    #[serde(flatten)]
    pub evaluation: BTreeMap<String, f64>,
}
