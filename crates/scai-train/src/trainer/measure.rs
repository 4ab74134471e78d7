//! How strong the network plays.

use std::collections::BTreeMap;

use scai_games::Game;

use super::Trainer;
use crate::config::{Evaluation, Opponent};
use crate::error::Result;
use crate::evaluation::{MatchOptions, Side, opponent, optimality, play_match};
use crate::event::{Event, Observer};
use crate::network::{Network, NetworkEvaluator};
use crate::search::{Exploration, SearchOptions};
use crate::state::TrainingState;
use crate::stop::Stop;

impl<G: Game, N: Network> Trainer<G, N> {
    /// Measures how strong the network plays, as `evaluation` says; its interval is ignored.
    ///
    /// The keys are those of [`TrainingStats::evaluation`](crate::TrainingStats::evaluation).
    ///
    /// # Errors
    /// [`Error::Network`](crate::Error::Network), [`Error::Stopped`](crate::Error::Stopped).
    pub fn evaluate(
        &self,
        evaluation: &Evaluation,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<BTreeMap<String, f64>> {
        self.measure(&self.state, evaluation, observer, stop)
    }

    pub(super) fn measure(
        &self,
        state: &TrainingState<N>,
        config: &Evaluation,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<BTreeMap<String, f64>> {
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
            let options = MatchOptions { games: config.games, drawn_plies: 0, seed };
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

    /// A search of `simulations` simulations, as in self-play.
    pub(super) fn search(&self, simulations: usize) -> SearchOptions {
        let c_puct = self.config.self_play.c_puct as f32;
        SearchOptions { simulations, exploration: Exploration { c_puct } }
    }
}
