//! Self-play training that can be killed anywhere and continues bit for bit.

pub mod config;
mod error;
pub mod evaluation;
mod event;
pub mod metrics;
mod network;
mod random;
mod replay;
mod schedule;
pub mod search;
mod self_play;
mod state;
mod stats;
mod stop;
mod trainer;

pub use config::Config;
pub use error::{Error, Result};
pub use event::{Event, Observer, Timing};
pub use network::{
    DualResNet, DualResNetConfig, Evaluation, Evaluator, Network, NetworkEvaluator, SavedNetwork,
};
pub use replay::{Augment, Batch, ReplayBuffer, Samples};
pub use self_play::{Played, SelfPlayOptions, self_play};
pub use state::{Restore, Restored};
pub use stats::TrainingStats;
pub use stop::Stop;
pub use trainer::{Ended, LoadOptions, ResumedAt, Trainer};

/// The backend's name in the metadata of checkpoints: burn's pure Rust backend, on the CPU.
pub const BACKEND: &str = "burn-flex";
