//! An iteration: play, learn, measure.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use scai_games::Game;

use super::Trainer;
use super::learning::{Learner, Losses};
use crate::error::{Error, Result};
use crate::event::{Event, Observer, Timing};
use crate::network::{Network, NetworkEvaluator};
use crate::replay::Augment;
use crate::schedule::learning_rate;
use crate::self_play::{SelfPlayOptions, self_play};
use crate::state::TrainingState;
use crate::stop::Stop;

impl<G: Game, N: Network> Trainer<G, N> {
    /// Plays, learns, evaluates. The state changes only after all of it is done.
    pub(super) fn iterate(&mut self, observer: &mut dyn Observer, stop: &Stop) -> Result<Timing> {
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
            state.stats.evaluation =
                self.measure(&state, &self.config.evaluation, observer, stop)?;
            timing.evaluation = begun.elapsed();
        }
        self.state = state;
        observer.on_event(&Event::Iteration { stats: &self.state.stats, evaluated, timing });
        Ok(timing)
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
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
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
}
