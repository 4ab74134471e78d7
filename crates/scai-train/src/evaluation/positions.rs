//! A fixed set of positions that a perfect solver has judged.

use scai_games::Game;

use super::searched;
use crate::error::Result;
use crate::network::Evaluator;
use crate::search::{SearchOptions, most_visited};
use crate::stop::Stop;

/// Positions that are searched in one batch.
const BATCH: usize = 125;

/// How many positions of the set a network plays as a solver would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Optimality {
    /// Positions of the set.
    pub positions: usize,
    /// Those in which the move of the search keeps the best possible result: a win, or else a draw.
    pub by_search: usize,
    /// Those in which the most likely move of the network alone does.
    pub by_policy: usize,
}

/// Judges a network by the game's [solved positions](Game::solved_positions); `None` if the game
/// has none.
///
/// # Errors
/// Those of the evaluator; [`crate::Error::Stopped`].
pub fn optimality<G: Game>(
    evaluator: &dyn Evaluator<G>,
    options: SearchOptions,
    stop: &Stop,
) -> Result<Option<Optimality>> {
    let solved = G::solved_positions();
    let mut optimality = Optimality { positions: solved.len(), ..Optimality::default() };
    for batch in solved.chunks(BATCH) {
        let asked: Vec<G> = batch.iter().map(|solved| solved.position).collect();
        let evaluations = evaluator.evaluate(&asked)?;
        let trees = searched(&asked, evaluator, options, stop)?;
        for ((solved, evaluation), tree) in batch.iter().zip(evaluations).zip(trees) {
            let legal = solved.position.legal_actions();
            let likeliest =
                legal.max_by(|&a, &b| evaluation.policy[a].total_cmp(&evaluation.policy[b]));
            optimality.by_policy += usize::from(likeliest.is_some_and(|a| solved.is_optimal(a)));
            optimality.by_search += usize::from(solved.is_optimal(most_visited(&tree.visits())));
        }
    }
    Ok((optimality.positions > 0).then_some(optimality))
}
