//! The training loop.

mod learning;
mod metadata;
mod saving;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::{
    Checkpoint, CheckpointManager, Dict, MatchOptions, Options, Skipped, TensorSpec, Value,
    open_file,
};
use scai_games::Game;

use self::learning::{Learner, Losses};
use self::metadata::RunInfo;
use self::saving::Saves;
use crate::config::{Config, Opponent};
use crate::error::{Error, Result};
use crate::evaluation::{MatchOptions as Match, Side, opponent, optimality, play_match};
use crate::event::{Event, Observer, Timing};
use crate::network::{DualResNet, DualResNetConfig, Network, NetworkEvaluator};
use crate::replay::Augment;
use crate::schedule::learning_rate;
use crate::search::{Exploration, SearchOptions};
use crate::self_play::{SelfPlayOptions, self_play};
use crate::state::{Restore, Restored, TrainingState, initialised, parameters};
use crate::stats::TrainingStats;
use crate::stop::Stop;

/// How a checkpoint is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// What counts as a match of names and shapes.
    pub matching: MatchOptions,
    /// What of the checkpoint is taken.
    pub restore: Restore,
    /// Whether a file without any checksums is loaded.
    pub unprotected: Unprotected,
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All iterations are done.
    Finished,
    /// It was asked to stop. The last iteration that was done is saved; one under way was dropped,
    /// and a resumed training plays it again with the same result.
    Stopped,
}

/// Where a training goes on.
#[derive(Debug)]
#[non_exhaustive]
pub struct ResumedAt {
    /// The iteration.
    pub iteration: u64,
    /// The checkpoint's name.
    pub name: String,
    /// Newer checkpoints that could not be used, newest first.
    pub skipped: Vec<Skipped>,
    /// Iterations between the newest checkpoint there was and this one.
    pub iterations_lost: u64,
}

/// Trains a network by self-play, and saves its state so that it can be killed at any moment.
///
/// The same configuration and seed give the same state after every iteration, bit for bit on one
/// machine, however many threads play and however often the training was killed and resumed.
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
    /// A training of a [`DualResNet`], from the beginning.
    ///
    /// # Errors
    /// Where the directory of the checkpoints cannot be created.
    pub fn new(config: Config) -> Result<Self> {
        let network = DualResNetConfig::of::<G>(&config.model);
        Self::with_network(config, |device| network.init(device))
    }
}

impl<G: Game, N: Network> Trainer<G, N> {
    /// A training of any network, from the beginning. `init` makes it on the device it is given;
    /// what it draws follows from the seed.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_network(config: Config, init: impl FnOnce(&Device) -> N) -> Result<Self> {
        let device = Device::default();
        let network = initialised(config.seed, &device, init);
        let options = Options::default().retention(config.retention());
        let manager = CheckpointManager::create(&config.checkpoint.directory, options)?;
        let state = TrainingState::new(&config, network);
        let (saves, info) = (Saves::default(), RunInfo::new());
        Ok(Self { config, device, state, manager, saves, info, game: PhantomData })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The statistics after the last iteration that is done.
    pub fn training_stats(&self) -> &TrainingStats {
        &self.state.stats
    }

    /// The checkpoints of this training.
    pub fn manager(&self) -> &CheckpointManager {
        &self.manager
    }

    /// The network as it is after the last iteration that is done.
    pub fn network(&self) -> &N {
        &self.state.network
    }

    /// The parameters of the network: name, element type and shape, as a state dict has them.
    pub fn parameters(&self) -> Vec<TensorSpec> {
        parameters(&self.state.network)
    }

    /// The network, ready to judge positions.
    pub fn evaluator(&self) -> NetworkEvaluator<G, N> {
        NetworkEvaluator::new(self.state.network.clone(), self.device.clone())
    }

    /// Saves the state as the checkpoint of `iteration`, and returns when it is durable.
    ///
    /// # Errors
    /// Those of [`CheckpointManager::save`].
    pub fn save_checkpoint(&mut self, iteration: u64) -> Result<scai_checkpoint::Saved> {
        let checkpoint = Checkpoint { iteration, ..self.checkpoint()? };
        let saved = self.manager.save(&checkpoint)?;
        self.saves.durable(iteration);
        Ok(saved)
    }

    /// Loads a checkpoint from anywhere: one of this training, one that PyTorch wrote, or a bare
    /// state dict of a network.
    ///
    /// # Errors
    /// Those of [`scai_checkpoint::open_file`]; a mismatch with the whole report where a strict
    /// load does not fit; [`Error::State`] where it holds something else. The training is then as
    /// it was.
    pub fn load_checkpoint(&mut self, path: &Path, options: &LoadOptions) -> Result<Restored> {
        let read = || {
            let tree = open_file(path, options.unprotected)?.tree()?;
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let tree = tree.resident(threads)?;
            Checkpoint::from_tree(match options.restore {
                Restore::Everything => tree,
                Restore::Network => as_checkpoint(tree),
            })
        };
        let checkpoint = read().map_err(|error| error.at_path(path.to_string_lossy()))?;
        let report = self.restore(&checkpoint, &options.matching, options.restore)?;
        self.saves = Saves::default();
        Ok(report)
    }

    /// Goes on from the newest checkpoint of this training's directory that is sound.
    ///
    /// `None` where there is no checkpoint.
    ///
    /// # Errors
    /// Those of [`CheckpointManager::resume`]; a mismatch where it is of another network. The
    /// training is then as it was.
    pub fn resume(&mut self) -> Result<Option<ResumedAt>> {
        let Some(found) = self.manager.resume()? else { return Ok(None) };
        self.restore(&found.checkpoint, &MatchOptions::default(), Restore::Everything)?;
        let iteration = found.checkpoint.iteration;
        self.saves = Saves::default();
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
            self.state.restored::<G>(checkpoint, &self.config, matching, restore, &self.device)?;
        self.state = state;
        if restore == Restore::Everything {
            self.info.go_on_from(&checkpoint.metadata);
        }
        Ok(report)
    }

    /// Trains until all iterations are done or somebody asks to stop.
    ///
    /// A checkpoint is saved in the background every `training.save_interval` iterations, and the
    /// last state at the end. A save that fails is reported to the observer, and training goes on.
    ///
    /// # Errors
    /// [`Error::NotSaved`] where the last state could not be saved; [`Error::Network`] where
    /// training has diverged. The state is that of the last iteration that was done.
    pub fn train(&mut self, observer: &mut dyn Observer, stop: &Stop) -> Result<Ended> {
        let ended = loop {
            if self.state.stats.total_iterations >= self.config.training.iterations {
                break Ended::Finished;
            }
            match self.iterate(observer, stop) {
                Ok(()) => {}
                Err(Error::Stopped) => break Ended::Stopped,
                Err(error) => {
                    self.save_last(observer)?;
                    return Err(error);
                }
            }
            self.saves.report(observer);
            if self.state.stats.total_iterations.is_multiple_of(self.config.training.save_interval)
            {
                self.save_in_background(observer);
            }
        };
        self.save_last(observer)?;
        Ok(ended)
    }

    /// Plays, learns, evaluates. The state changes only once all of it is done.
    fn iterate(&mut self, observer: &mut dyn Observer, stop: &Stop) -> Result<()> {
        let mut state = self.state.clone();
        state.stats.total_iterations += 1;
        let mut timing = Timing::default();

        let begun = Instant::now();
        self.play(&mut state, observer, stop)?;
        timing.self_play = begun.elapsed();

        let begun = Instant::now();
        self.learn(&mut state, observer, stop)?;
        timing.learning = begun.elapsed();

        let begun = Instant::now();
        let interval = self.config.evaluation.interval;
        let evaluated = interval > 0 && state.stats.total_iterations.is_multiple_of(interval);
        if evaluated {
            state.stats.evaluation = self.measure(&state, observer, stop)?;
            timing.evaluation = begun.elapsed();
        }
        self.state = state;
        observer.on_event(&Event::Iteration { stats: &self.state.stats, evaluated, timing });
        Ok(())
    }

    fn play(
        &self,
        state: &mut TrainingState<N>,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<()> {
        let config = &self.config.self_play;
        let (iteration, of) = (state.stats.total_iterations, config.games_per_iteration);
        let options = SelfPlayOptions {
            parallel_games: config.parallel_games,
            search: self.search(config.simulations),
            dirichlet_alpha: config.dirichlet_alpha as f32,
            dirichlet_fraction: config.dirichlet_fraction as f32,
            temperature: config.temperature as f32,
            temperature_moves: config.temperature_moves,
            seed: state.random.seed,
            threads: match config.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
        };
        observer.on_event(&Event::SelfPlay { iteration, games: 0, of });
        let told = Mutex::new((0, observer));
        let finished = || {
            let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            told.0 += 1;
            let games = told.0;
            told.1.on_event(&Event::SelfPlay { iteration, games, of });
        };
        let evaluator = NetworkEvaluator::new(state.network.clone(), self.device.clone());
        let numbers = state.random.next_game..state.random.next_game + of as u64;
        let played = self_play::<G>(&evaluator, numbers, &options, &finished, stop)?;

        let games = played.games.max(1) as f64;
        state.random.next_game += of as u64;
        state.stats.total_games += played.games as u64;
        state.stats.total_positions += played.samples.len() as u64;
        state.stats.game_length = played.samples.len() as f64 / games;
        state.stats.first_player_rate =
            (played.first_wins as f64 + played.draws as f64 / 2.0) / games;
        state.replay.push(played.samples);
        Ok(())
    }

    fn learn(
        &self,
        state: &mut TrainingState<N>,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<()> {
        let config = &self.config.training;
        if state.replay.len() < self.config.replay_buffer.min_positions.max(1) {
            return Ok(());
        }
        let augment = if config.augment { Augment::Symmetries } else { Augment::Nothing };
        let (iteration, of) = (state.stats.total_iterations, config.steps_per_iteration);
        let mut learner =
            Learner::new(&state.network, &state.optimizer, &self.device, config.value_loss_weight);
        let mut sum = Losses::default();
        for steps in 0..of {
            if stop.is_asked() {
                return Err(Error::Stopped);
            }
            observer.on_event(&Event::Learning { iteration, steps, of });
            let rate = learning_rate(config, state.stats.total_steps);
            let batch =
                state.replay.sample::<G>(config.batch_size, augment, &mut state.random.sampling);
            let (next, losses) = learner.step::<G>(batch, rate)?;
            learner = next;
            sum.policy += losses.policy;
            sum.value += losses.value;
            state.stats.total_steps += 1;
            state.stats.learning_rate = rate;
        }
        observer.on_event(&Event::Learning { iteration, steps: of, of });
        (state.network, state.optimizer) = learner.finish();
        state.batches += of;
        state.stats.policy_loss = sum.policy / of.max(1) as f64;
        state.stats.value_loss = sum.value / of.max(1) as f64;
        state.stats.loss =
            state.stats.policy_loss + config.value_loss_weight * state.stats.value_loss;
        Ok(())
    }

    /// Measures how strong the network plays, as `evaluation` of the configuration says.
    ///
    /// The keys are those of [`TrainingStats::evaluation`].
    ///
    /// # Errors
    /// [`Error::Network`], [`Error::Stopped`].
    pub fn evaluate(
        &self,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<BTreeMap<String, f64>> {
        self.measure(&self.state, observer, stop)
    }

    fn measure(
        &self,
        state: &TrainingState<N>,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<BTreeMap<String, f64>> {
        let config = &self.config.evaluation;
        let iteration = state.stats.total_iterations;
        let search = self.search(config.simulations);
        let evaluator: NetworkEvaluator<G, N> =
            NetworkEvaluator::new(state.network.clone(), self.device.clone());
        let mut results = BTreeMap::new();
        for &named in &config.opponents {
            observer.on_event(&Event::Evaluating { iteration, what: &named.to_string() });
            let player = opponent::<G>(named);
            let (first, second) = (Side::Network(&evaluator, search), Side::Player(&*player));
            let seed = state.random.seed.wrapping_add(iteration);
            let options = Match { games: config.games, drawn_plies: 0, seed };
            let score = play_match(first, second, options, stop)?;
            let name = match named {
                Opponent::Random => "random".to_owned(),
                Opponent::AlphaBeta { depth } => format!("alphabeta{depth}"),
            };
            results.insert(format!("win_rate_{name}"), score.rate());
        }
        if config.positions {
            observer.on_event(&Event::Evaluating { iteration, what: "solved positions" });
            if let Some(found) = optimality::<G>(&evaluator, search, stop)? {
                let share = |count: usize| count as f64 / found.positions as f64;
                results.insert("optimal_moves".to_owned(), share(found.by_search));
                results.insert("optimal_moves_policy".to_owned(), share(found.by_policy));
            }
        }
        Ok(results)
    }

    fn search(&self, simulations: usize) -> SearchOptions {
        let c_puct = self.config.self_play.c_puct as f32;
        SearchOptions { simulations, exploration: Exploration { c_puct } }
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
                self.saves.started(iteration, handle);
                observer.on_event(&Event::Saving { iteration, waited });
            }
            Err(error) => observer.on_event(&Event::SaveFailed { iteration, error: &error }),
        }
    }

    /// Waits for the saves under way, and saves the last state where none of them did.
    fn save_last(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.saves.wait(observer);
        let iteration = self.state.stats.total_iterations;
        if self.saves.is_durable(iteration) || iteration == 0 {
            return Ok(());
        }
        observer.on_event(&Event::Saving { iteration, waited: Duration::ZERO });
        match self.save_checkpoint(iteration) {
            Ok(saved) => {
                observer.on_event(&Event::Saved { iteration, saved: &saved.into() });
                Ok(())
            }
            Err(error) => {
                observer.on_event(&Event::SaveFailed { iteration, error: &error });
                Err(Error::NotSaved { iteration, source: Box::new(error) })
            }
        }
    }
}

/// A tree to take a network from: a checkpoint, or a bare state dict.
fn as_checkpoint(tree: Value) -> Value {
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
