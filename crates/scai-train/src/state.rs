//! The training state as one value, and its form in a checkpoint.
//!
//! `scai-burn` converts the parts that belong to burn, the network and the optimizer.

use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use scai_burn::AdamW;
use scai_checkpoint::load::{LoadReport, MatchOptions};
use scai_checkpoint::value::{from_value, to_value};
use scai_checkpoint::{Checkpoint, Dict, Value};
use scai_games::Game;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::random::{Purpose, Random, RandomState, stream};
use crate::replay::ReplayBuffer;
use crate::schedule::learning_rate;
use crate::stats::TrainingStats;

/// PyTorch's default; burn's is 1e-5.
const EPSILON: f32 = 1e-8;

/// Everything that training continues from. Cloning shares all tensors.
///
/// The network is not in training here: nothing changes its tensors in place, so a clone is a
/// snapshot.
#[derive(Debug, Clone)]
pub(crate) struct TrainingState<N> {
    pub(crate) network: N,
    pub(crate) optimizer: AdamW,
    pub(crate) replay: ReplayBuffer,
    pub(crate) random: Random,
    pub(crate) stats: TrainingStats,
    /// Batches that batch norm has seen.
    pub(crate) batches: u64,
}

/// Which parts of a checkpoint are loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restore {
    /// The whole training state: training continues where the checkpoint was saved.
    #[default]
    Everything,
    /// The network and the optimizer's moments: a new training run starts from them.
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
    pub(crate) fn new(config: &Config, network: N) -> Result<Self> {
        Ok(Self {
            network,
            optimizer: untrained(config)?,
            replay: ReplayBuffer::new(config.replay_buffer.capacity),
            random: Random::new(config.seed),
            stats: TrainingStats::default(),
            batches: 0,
        })
    }

    /// The state as a checkpoint. The tensors are shared; nothing is copied here.
    pub(crate) fn to_checkpoint<G: Game>(
        &self,
        config: &Config,
        metadata: Value,
    ) -> Result<Checkpoint> {
        let rate = learning_rate(&config.training, self.stats.total_steps);
        let mut model = scai_burn::state_dict(&self.network)?;
        scai_burn::set_num_batches_tracked(&mut model, self.batches)?;
        let optimizer = self.optimizer.state_dict(&self.network, rate)?;
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

    /// The state of a checkpoint, for training with `self`'s network.
    ///
    /// # Errors
    /// If the checkpoint does not fit; `self` is not changed.
    pub(crate) fn restored<G: Game>(
        &self,
        checkpoint: &Checkpoint,
        config: &Config,
        options: &MatchOptions,
        restore: Restore,
    ) -> Result<(Self, Restored)> {
        let saved = &checkpoint.model_state_dict;
        let mut state = self.clone();
        let (network, report) = scai_burn::load_state_dict(&self.network, saved, options)?;
        state.network = network;
        state.batches = scai_burn::num_batches_tracked(saved);
        state.optimizer = untrained(config)?;
        // A bare state dict of a network comes with an empty one.
        let optimizer = &checkpoint.optimizer_state_dict;
        let moments = match optimizer.as_dict().is_some_and(Dict::is_empty) {
            true => LoadReport::default(),
            false => {
                let optimizer = scai_burn::with_param_names(optimizer.clone(), saved)?;
                state.optimizer.load_state_dict(&optimizer, &state.network, options)?
            }
        };
        if restore == Restore::Everything {
            let incomplete = !options.is_strict();
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
                        Error::State(format!(
                            "`rng_state` is of the unknown generator {}",
                            random.generator
                        ))
                    })?;
                }
                _ if incomplete => {}
                Some(Err(error)) => return Err(Error::State(format!("`rng_state`: {error}"))),
                None => return Err(missing("rng_state")),
            }
        }
        let report =
            Restored { iteration: checkpoint.iteration, network: report, optimizer: moments };
        Ok((state, report))
    }
}

/// The optimizer of a configuration, without moments.
fn untrained(config: &Config) -> Result<AdamW> {
    let weight_decay = config.training.weight_decay as f32;
    let config = AdamWConfig::new().with_epsilon(EPSILON).with_weight_decay(weight_decay);
    Ok(AdamW::new(&config)?)
}

fn missing(part: &str) -> Error {
    Error::State(format!(
        "it has no `{part}`; load only the network (`--init-from`) to continue training from it"
    ))
}

/// A network with the parameters for `seed`.
///
/// Burn draws them from a generator that all threads share, so only one network is made at a time.
pub(crate) fn initialised<N: Module>(
    seed: u64,
    device: &Device,
    init: impl FnOnce(&Device) -> N,
) -> Result<N> {
    use std::sync::{Mutex, PoisonError};

    use rand::Rng as _;

    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(stream(seed, Purpose::Initialisation, 0).next_u64());
    let network = init(device);
    // Parameters are drawn when they are first read.
    scai_burn::named_parameters(&network)?;
    Ok(network)
}
