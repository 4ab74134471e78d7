//! Monte Carlo tree search of many games at once, which share the batches of one network.

mod tree;

use rand::Rng;
use rand::RngExt as _;
use rand_distr::{Distribution as _, Gamma};
use scai_games::Game;

pub use tree::{Exploration, Found, Leaf, Tree};

use crate::error::{Error, Result};
use crate::network::Cache;
use crate::stop::Stop;

/// How long and how widely to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchOptions {
    /// Descents of the tree for each move.
    pub simulations: usize,
    /// How values and priors are weighed.
    pub exploration: Exploration,
}

/// Searches every tree, with one position of each in every batch.
///
/// # Errors
/// Those of the evaluator; [`Error::Stopped`] if it was asked to stop.
pub(crate) fn search<G: Game>(
    trees: &mut [&mut Tree<G>],
    cache: &mut Cache<'_, G>,
    options: SearchOptions,
    stop: &Stop,
) -> Result<()> {
    for _ in 0..options.simulations {
        simulate(trees, cache, options.exploration, stop)?;
    }
    Ok(())
}

/// Evaluates the roots that have not been yet.
///
/// # Errors
/// As [`search`].
pub(crate) fn expand_roots<G: Game>(
    trees: &mut [&mut Tree<G>],
    cache: &mut Cache<'_, G>,
    exploration: Exploration,
    stop: &Stop,
) -> Result<()> {
    let mut fresh: Vec<&mut Tree<G>> =
        trees.iter_mut().filter(|tree| !tree.is_expanded()).map(|tree| &mut **tree).collect();
    simulate(&mut fresh, cache, exploration, stop)
}

fn simulate<G: Game>(
    trees: &mut [&mut Tree<G>],
    cache: &mut Cache<'_, G>,
    exploration: Exploration,
    stop: &Stop,
) -> Result<()> {
    if stop.is_asked() {
        return Err(Error::Stopped);
    }
    let (mut leaves, mut positions) = (Vec::new(), Vec::new());
    for (i, tree) in trees.iter_mut().enumerate() {
        if let Found::Leaf(leaf, position) = tree.descend(exploration) {
            leaves.push((i, leaf));
            positions.push(position);
        }
    }
    cache.judge(&positions)?;
    for ((i, leaf), position) in leaves.into_iter().zip(&positions) {
        if let Some(evaluation) = cache.get(position) {
            trees[i].expand(leaf, position, evaluation);
        }
    }
    Ok(())
}

/// Shares for `count` actions that are drawn from a symmetric Dirichlet distribution.
pub(crate) fn dirichlet(count: usize, alpha: f32, rng: &mut impl Rng) -> Vec<f32> {
    let even = vec![1.0 / count.max(1) as f32; count];
    let Ok(gamma) = Gamma::new(alpha, 1.0) else { return even };
    let draws: Vec<f32> = (0..count).map(|_| gamma.sample(rng)).collect();
    let sum: f32 = draws.iter().sum();
    // Small draws may all be zero in single precision.
    if sum > 0.0 { draws.iter().map(|draw| draw / sum).collect() } else { even }
}

/// Draws an action with a probability proportional to `visits^(1 / temperature)`.
pub(crate) fn draw(visits: &[u32], temperature: f32, rng: &mut impl Rng) -> usize {
    let most = visits.iter().copied().max().unwrap_or(0).max(1) as f32;
    let weight = |&visits: &u32| (visits as f32 / most).powf(1.0 / temperature);
    let sum: f32 = visits.iter().map(weight).sum();
    let mut rest = rng.random::<f32>() * sum;
    for (action, visits) in visits.iter().enumerate() {
        rest -= weight(visits);
        if rest < 0.0 {
            return action;
        }
    }
    most_visited(visits)
}

/// The action that was chosen most often; the first among equals.
pub(crate) fn most_visited(visits: &[u32]) -> usize {
    let best =
        visits.iter().enumerate().max_by_key(|&(action, visits)| (visits, usize::MAX - action));
    best.map_or(0, |(action, _)| action)
}
