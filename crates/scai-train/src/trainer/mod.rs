//! The training loop.

mod cadence;
mod iteration;
mod learning;
mod measure;
mod metadata;
mod saving;

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::load::{MatchOptions, TensorSpec};
use scai_checkpoint::manager::Skipped;
use scai_checkpoint::{Checkpoint, CheckpointManager, Dict, Options, Value, file};
use scai_games::Game;

use self::metadata::RunInfo;
use self::saving::Saves;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::network::{DualResNet, DualResNetConfig, Network, NetworkEvaluator};
use crate::state::{Restore, Restored, TrainingState, initialised};
use crate::stats::TrainingStats;
use crate::stop::Stop;

/// How a checkpoint is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// What counts as a match of names and shapes.
    pub matching: MatchOptions,
    /// Which parts of the checkpoint are loaded.
    pub restore: Restore,
    /// Whether a file without any checksums is loaded.
    pub unprotected: Unprotected,
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All iterations are done.
    Finished,
    /// It was asked to stop. The last finished iteration is saved; one in progress was dropped, and
    /// a resumed run plays it again with the same result.
    Stopped,
}

/// Where training continues.
#[derive(Debug)]
#[non_exhaustive]
pub struct ResumedAt {
    /// The iteration.
    pub iteration: u64,
    /// The checkpoint's name.
    pub name: String,
    /// Newer checkpoints that could not be used, newest first.
    pub skipped: Vec<Skipped>,
    /// Iterations between the newest checkpoint and this one.
    pub iterations_lost: u64,
}

/// Trains a network by self-play, and saves its state so that it can be killed at any moment.
///
/// The same configuration and seed give the same state after every iteration, bit for bit on one
/// machine, whatever the number of threads and however often training was killed and resumed.
///
/// ```no_run
/// use scai_games::ConnectFour;
/// use scai_train::{Config, Event, Stop, Trainer};
///
/// let config = Config::default();
/// let mut trainer = Trainer::<ConnectFour>::new(config)?;
/// trainer.resume()?;
/// trainer.train(&mut |_: &Event<'_>| {}, &Stop::new())?;
/// println!("{} games", trainer.training_stats().total_games);
/// # Ok::<(), scai_train::Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer<G, N = DualResNet> {
    config: Config,
    device: Device,
    state: TrainingState<N>,
    manager: CheckpointManager,
    saves: Saves,
    info: RunInfo,
    game: PhantomData<fn() -> G>,
}

impl<G: Game> Trainer<G, DualResNet> {
    /// Trains a [`DualResNet`], from the beginning.
    ///
    /// # Errors
    /// If the directory of the checkpoints cannot be created.
    pub fn new(config: Config) -> Result<Self> {
        let network = DualResNetConfig::of::<G>(&config.model);
        Self::with_network(config, |device| network.init(device))
    }
}

impl<G: Game, N: Network> Trainer<G, N> {
    /// Trains any network, from the beginning. `init` makes it on the given device, with random
    /// numbers from the seed.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_network(config: Config, init: impl FnOnce(&Device) -> N) -> Result<Self> {
        let device = Device::default();
        let network = initialised(config.seed, &device, init)?;
        let options = Options::default().retention(config.retention()?);
        let manager = CheckpointManager::create(&config.checkpoint.directory, options)?;
        let state = TrainingState::new(&config, network)?;
        let (saves, info) = (Saves::new(&config.training, 0), RunInfo::new());
        Ok(Self { config, device, state, manager, saves, info, game: PhantomData })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The statistics after the last finished iteration.
    pub fn training_stats(&self) -> &TrainingStats {
        &self.state.stats
    }

    /// Continues from other statistics: counters start at these, and
    /// [`TrainingStats::total_iterations`] says which iteration comes next.
    pub fn set_training_stats(&mut self, stats: TrainingStats) {
        self.state.stats = stats;
    }

    /// The checkpoints of this training.
    pub fn manager(&self) -> &CheckpointManager {
        &self.manager
    }

    /// The network as it is after the last finished iteration.
    pub fn network(&self) -> &N {
        &self.state.network
    }

    /// The parameters of the network: name, element type and shape, as in a state dict.
    pub fn parameters(&self) -> Vec<TensorSpec> {
        // It fails only for quantised networks, which `initialised` has rejected.
        scai_burn::named_parameters(&self.state.network).unwrap_or_default()
    }

    /// The network, ready to evaluate positions.
    pub fn evaluator(&self) -> NetworkEvaluator<G, N> {
        NetworkEvaluator::new(self.state.network.clone(), self.device.clone())
    }

    /// Saves the state as the checkpoint of `iteration`, and returns when it is durable.
    ///
    /// # Errors
    /// Those of [`CheckpointManager::save`].
    pub fn save_checkpoint(&mut self, iteration: u64) -> Result<scai_checkpoint::Saved> {
        let checkpoint = Checkpoint { iteration, ..self.checkpoint()? };
        let saved = self.manager.save(checkpoint)?;
        self.saves.durable(iteration);
        Ok(saved)
    }

    /// Loads a checkpoint from anywhere: one of this training, one that PyTorch wrote, or a bare
    /// state dict of a network.
    ///
    /// # Errors
    /// Those of [`scai_checkpoint::file::open`]; a mismatch with the whole report if a strict load
    /// does not fit; [`Error::State`] if it holds something else. The trainer is then unchanged.
    pub fn load_checkpoint(&mut self, path: &Path, options: &LoadOptions) -> Result<Restored> {
        let read = || {
            let tree = file::open(path, options.unprotected)?.tree()?;
            let tree = tree.resident(ReadOptions::default())?;
            Checkpoint::from_tree(match options.restore {
                Restore::Everything => tree,
                Restore::Network => as_checkpoint(tree),
            })
        };
        let checkpoint = read().map_err(|error| error.at_path(path))?;
        self.restore(&checkpoint, &options.matching, options.restore)
    }

    /// Continues from the newest sound checkpoint of this training's directory.
    ///
    /// Returns `None` if there is no checkpoint.
    ///
    /// # Errors
    /// Those of [`CheckpointManager::resume`]; a mismatch if it is of another network. The trainer
    /// is then unchanged.
    pub fn resume(&mut self) -> Result<Option<ResumedAt>> {
        let Some(found) = self.manager.resume()? else { return Ok(None) };
        self.restore(&found.checkpoint, &MatchOptions::default(), Restore::Everything)?;
        let iteration = found.checkpoint.iteration;
        self.saves.durable(iteration);
        Ok(Some(ResumedAt {
            iteration,
            name: found.name,
            skipped: found.skipped,
            iterations_lost: found.iterations_lost,
        }))
    }

    fn restore(
        &mut self,
        checkpoint: &Checkpoint,
        matching: &MatchOptions,
        restore: Restore,
    ) -> Result<Restored> {
        let (state, report) =
            self.state.restored::<G>(checkpoint, &self.config, matching, restore)?;
        self.state = state;
        self.saves = Saves::new(&self.config.training, self.state.stats.total_iterations);
        if restore == Restore::Everything {
            self.info.go_on_from(&checkpoint.metadata);
        }
        Ok(report)
    }

    /// Trains until all iterations are done or `stop` asks to stop.
    ///
    /// A checkpoint is saved in the background every `training.save_interval` iterations, or as
    /// often as `training.save_overhead` allows, and the last state at the end. A failed save is reported to
    /// the observer, and training continues.
    ///
    /// # Errors
    /// [`Error::NotSaved`] if the last state could not be saved; [`Error::Network`] if training has
    /// diverged. The state is that of the last finished iteration.
    pub fn train(&mut self, observer: &mut dyn Observer, stop: &Stop) -> Result<Ended> {
        let ended = loop {
            if self.state.stats.total_iterations >= self.config.training.iterations {
                break Ended::Finished;
            }
            if stop.is_asked() {
                break Ended::Stopped;
            }
            match self.iterate(observer, stop) {
                Ok(timing) => self.saves.observe_iteration(timing),
                Err(Error::Stopped) => break Ended::Stopped,
                Err(error) => {
                    self.save_last(observer)?;
                    return Err(error);
                }
            }
            let iteration = self.state.stats.total_iterations;
            self.saves.report(iteration, observer);
            if self.saves.is_due(iteration) {
                self.save_in_background(observer);
            }
        };
        self.save_last(observer)?;
        Ok(ended)
    }

    /// The state after the last iteration that is done, as a checkpoint.
    fn checkpoint(&self) -> Result<Checkpoint> {
        let metadata = self.info.metadata(G::NAME, &self.config)?;
        self.state.to_checkpoint::<G>(&self.config, metadata)
    }

    fn save_in_background(&mut self, observer: &mut dyn Observer) {
        let iteration = self.state.stats.total_iterations;
        let begun = Instant::now();
        let started = self
            .checkpoint()
            .and_then(|checkpoint| Ok(self.manager.save_in_background(checkpoint)?));
        match started {
            Ok(handle) => {
                let waited = begun.elapsed();
                self.saves.started(iteration, waited, handle);
                observer.on_event(&Event::Saving { iteration, waited });
            }
            Err(error) => self.saves.refused(iteration, &error, observer),
        }
    }

    /// Waits for the running saves, and saves the last state if none of them did.
    fn save_last(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let iteration = self.state.stats.total_iterations;
        self.saves.wait(iteration, observer);
        if self.saves.is_durable(iteration) || iteration == 0 {
            return Ok(());
        }
        observer.on_event(&Event::Saving { iteration, waited: Duration::ZERO });
        let begun = Instant::now();
        match self.save_checkpoint(iteration) {
            Ok(saved) => {
                let (waited, interval) = (begun.elapsed(), self.saves.interval());
                self.saves.waited_for(iteration);
                let saved = &Arc::new(saved);
                observer.on_event(&Event::Saved { iteration, saved, waited, interval });
                Ok(())
            }
            Err(error) => {
                observer.on_event(&Event::SaveFailed { iteration, error: &error, next: None });
                Err(Error::NotSaved { iteration, source: Box::new(error) })
            }
        }
    }
}

/// A tree to load a network from: a checkpoint, or a bare state dict.
fn as_checkpoint(tree: Value) -> Value {
    let tree = tree.into_resolved();
    let Value::Dict(mut dict) = tree else { return tree };
    let is_state_dict =
        !dict.is_empty() && dict.entries.iter().all(|(_, value)| value.as_tensor().is_some());
    if is_state_dict {
        let mut checkpoint = Dict::new();
        checkpoint.insert("model_state_dict", dict);
        dict = checkpoint;
    }
    if dict.get("model_state_dict").is_some() {
        for (field, value) in
            [("iteration", Value::Int(0)), ("optimizer_state_dict", Value::Dict(Dict::new()))]
        {
            if dict.get(field).is_none() {
                dict.insert(field, value);
            }
        }
    }
    Value::Dict(dict)
}
