//! The training state as one value, and its form in a checkpoint.
//!
//! This is the only place that knows both burn and checkpoints.

mod module;
mod optimizer;

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::Device;
use scai_checkpoint::load::{LoadReport, MatchOptions, Strictness, TensorSpec, match_state};
use scai_checkpoint::value::{from_value, to_value};
use scai_checkpoint::{Checkpoint, DType, Dict, Value};
use scai_games::Game;

pub use optimizer::Adam;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::random::{Purpose, Random, RandomState, stream};
use crate::replay::ReplayBuffer;
use crate::schedule::learning_rate;
use crate::stats::TrainingStats;

/// Everything a training goes on from. Cloning shares all tensors.
///
/// The network is not in training here: nothing changes its tensors in place, so a clone is a
/// snapshot.
#[derive(Debug, Clone)]
pub(crate) struct TrainingState<N> {
    pub(crate) network: N,
    pub(crate) optimizer: Adam,
    pub(crate) replay: ReplayBuffer,
    pub(crate) random: Random,
    pub(crate) stats: TrainingStats,
    /// Batches that batch norm has seen.
    pub(crate) batches: u64,
}

/// What of a checkpoint is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restore {
    /// The whole training state: training goes on where the checkpoint was saved.
    #[default]
    Everything,
    /// The network and the optimizer's moments: a new training starts from them.
    Network,
}

/// What a load took from a checkpoint.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Restored {
    /// The iteration of the checkpoint.
    pub iteration: u64,
    /// The tensors of the network.
    pub network: LoadReport,
    /// The parameters whose moments were taken.
    pub optimizer: LoadReport,
}

impl<N: Module> TrainingState<N> {
    pub(crate) fn new(config: &Config, network: N) -> Self {
        Self {
            network,
            optimizer: Adam::new(config.training.weight_decay),
            replay: ReplayBuffer::new(config.replay_buffer.capacity),
            random: Random::new(config.seed),
            stats: TrainingStats::default(),
            batches: 0,
        }
    }

    /// The state as a checkpoint. The tensors are shared; nothing is copied here.
    pub(crate) fn to_checkpoint<G: Game>(
        &self,
        config: &Config,
        metadata: Value,
    ) -> Result<Checkpoint> {
        let specs = module::specs(&self.network);
        let rate = learning_rate(&config.training, self.stats.total_steps);
        let model = module::state_dict(&self.network, self.batches)?;
        let optimizer = self.optimizer.state_dict(&specs, rate)?;
        let mut checkpoint = Checkpoint::new(self.stats.total_iterations, model, optimizer);
        checkpoint.training_stats = to_value(&self.stats)?;
        checkpoint.metadata = metadata;
        let mut schedule = Dict::new();
        schedule.insert("schedule", to_value(&config.training.schedule)?);
        schedule.insert("last_epoch", i64::try_from(self.stats.total_steps).unwrap_or(i64::MAX));
        schedule.insert("_last_lr", vec![Value::Float(rate)]);
        checkpoint.parts.insert("scheduler_state_dict", schedule);
        checkpoint.parts.insert("rng_state", to_value(&self.random.state())?);
        checkpoint.parts.insert("replay_buffer", self.replay.to_value::<G>()?);
        Ok(checkpoint)
    }

    /// The state of a checkpoint, for a training with `self`'s network.
    ///
    /// # Errors
    /// Where the checkpoint does not fit; `self` is not changed.
    pub(crate) fn restored<G: Game>(
        &self,
        checkpoint: &Checkpoint,
        config: &Config,
        options: &MatchOptions,
        restore: Restore,
        device: &Device,
    ) -> Result<(Self, Restored)> {
        let specs = module::specs(&self.network);
        let saved = &checkpoint.model_state_dict;
        let matched = match_state(saved, &module::expected(&specs), options)?;
        let tensors: HashMap<_, _> = matched.tensors.into_iter().collect();
        let (optimizer, moments) = self.optimizer.restored(
            &checkpoint.optimizer_state_dict,
            saved,
            &specs,
            options,
            device,
        )?;
        let mut state = self.clone();
        // A clone shares the cells of batch norm with `self`; a detour through training does not.
        state.network = module::with_tensors(self.network.clone().train().valid(), &tensors)?;
        state.optimizer = optimizer;
        state.batches = module::batches_seen(saved);
        if restore == Restore::Everything {
            let incomplete = options.strictness == Strictness::Partial;
            let part = |name: &str| checkpoint.parts.get(name);
            state.stats = from_value(&checkpoint.training_stats)
                .map_err(|error| Error::State(format!("`training_stats`: {error}")))?;
            state.stats.total_iterations = checkpoint.iteration;
            match part("replay_buffer") {
                Some(value) => {
                    state.replay =
                        ReplayBuffer::from_value::<G>(value, config.replay_buffer.capacity)?;
                }
                None if incomplete => {}
                None => return Err(missing("replay_buffer")),
            }
            match part("rng_state").map(from_value::<RandomState>) {
                Some(Ok(random)) => {
                    state.random = Random::restored(&random).ok_or_else(|| {
                        Error::State(format!("`rng_state` is one of {}", random.generator))
                    })?;
                }
                _ if incomplete => {}
                Some(Err(error)) => return Err(Error::State(format!("`rng_state`: {error}"))),
                None => return Err(missing("rng_state")),
            }
        }
        let report = Restored {
            iteration: checkpoint.iteration,
            network: matched.report,
            optimizer: moments,
        };
        Ok((state, report))
    }
}

/// The parameters of a network, as a state dict has them.
pub(crate) fn parameters<N: Module>(network: &N) -> Vec<TensorSpec> {
    let specs = module::specs(network).into_iter();
    let parameters = specs.filter(|spec| spec.role == module::Role::Parameter);
    parameters
        .map(|spec| TensorSpec { name: spec.name, dtype: DType::Float32, shape: spec.shape })
        .collect()
}

/// A network with the tensors of a state dict, all of which must match.
pub(crate) fn with_state_dict<N: Module>(network: N, saved: &Value) -> Result<N> {
    let expected = module::expected(&module::specs(&network));
    let matched = match_state(saved, &expected, &MatchOptions::default())?;
    module::with_tensors(network, &matched.tensors.into_iter().collect())
}

fn missing(part: &str) -> Error {
    Error::State(format!(
        "it has no `{part}`; load the network alone (`--init-from`) to train on from it"
    ))
}

/// A network with the parameters that `seed` stands for.
///
/// Burn draws them from a generator that all threads share, so only one network is made at a time.
pub(crate) fn initialised<N: Module>(
    seed: u64,
    device: &Device,
    init: impl FnOnce(&Device) -> N,
) -> N {
    use std::sync::{Mutex, PoisonError};

    use rand::Rng as _;

    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(stream(seed, Purpose::Initialisation, 0).next_u64());
    let network = init(device);
    // Parameters are drawn when they are first looked at.
    module::specs(&network);
    network
}
