//! The network of a checkpoint, for use without training.

use std::path::Path;

use burn::tensor::Device;
use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::load::MatchOptions;
use scai_checkpoint::value::from_value;
use scai_checkpoint::{Value, file};
use scai_games::Game;

use super::{DualResNet, DualResNetConfig, NetworkEvaluator};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::state::initialised;

/// The network of a checkpoint, and the configuration it was trained with.
///
/// Only the file is read, and nothing is written.
#[derive(Debug, Clone)]
pub struct SavedNetwork {
    config: Config,
    iteration: u64,
    state_dict: Value,
}

impl SavedNetwork {
    /// Reads the network of a checkpoint that a [`Trainer`](crate::Trainer) saved.
    ///
    /// # Errors
    /// Those of [`scai_checkpoint::file::open`]; [`Error::State`] if the file does not have the
    /// configuration.
    pub fn open(path: &Path) -> Result<Self> {
        let tree = file::open(path, Unprotected::default())?.tree()?;
        let config = tree.lookup("metadata.config").ok_or_else(|| {
            Error::State(
                "it has no `metadata.config`, which names the game and the size of the network"
                    .to_owned(),
            )
        })?;
        let config = from_value(config)
            .map_err(|error| Error::State(format!("`metadata.config`: {error}")))?;
        let iteration = match tree.lookup("iteration") {
            Some(Value::Int(iteration)) => u64::try_from(*iteration).unwrap_or_default(),
            _ => 0,
        };
        let state_dict = tree
            .lookup("model_state_dict")
            .ok_or_else(|| Error::State("it has no `model_state_dict`".to_owned()))?;
        let state_dict = state_dict.clone().resident(ReadOptions::default())?;
        Ok(Self { config, iteration, state_dict })
    }

    /// The configuration it was trained with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The iteration after which it was saved.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// The network, ready to evaluate positions.
    ///
    /// # Errors
    /// A mismatch if the network is not one for `G`, which must be the game of the configuration.
    pub fn evaluator<G: Game>(&self) -> Result<NetworkEvaluator<G, DualResNet>> {
        let device = Device::default();
        let size = DualResNetConfig::of::<G>(&self.config.model);
        let network = initialised(self.config.seed, &device, |device| size.init(device))?;
        let options = MatchOptions::default();
        let (network, _) = scai_burn::load_state_dict(&network, &self.state_dict, &options)?;
        Ok(NetworkEvaluator::new(network, device))
    }
}
