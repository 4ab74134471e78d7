//! How strong a network plays.

mod positions;

use rand_chacha::ChaCha8Rng;
use scai_games::{AlphaBeta, Game, Outcome, Player, Random};

pub use positions::{Optimality, optimality};

use crate::config::Opponent;
use crate::error::Result;
use crate::network::{Cache, Evaluator};
use crate::random::{Purpose, stream};
use crate::search::{SearchOptions, Tree, draw, most_visited, search};
use crate::stop::Stop;

/// Who plays a match.
#[derive(Clone, Copy)]
pub enum Side<'a, G: Game> {
    /// A search with a network.
    Network(&'a dyn Evaluator<G>, SearchOptions),
    /// A player without one.
    Player(&'a dyn Player<G>),
}

/// How a match ended, as its first side sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Score {
    /// Games won.
    pub wins: usize,
    /// Games that nobody won.
    pub draws: usize,
    /// Games lost.
    pub losses: usize,
}

impl Score {
    /// All games.
    pub fn games(&self) -> usize {
        self.wins + self.draws + self.losses
    }

    /// The share of games won, a draw counting half.
    pub fn rate(&self) -> f64 {
        (self.wins as f64 + self.draws as f64 / 2.0) / self.games().max(1) as f64
    }
}

/// A match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchOptions {
    /// Games; each side moves first in half of them.
    pub games: usize,
    /// Plies in which a network draws its moves by their visits. Otherwise two networks would play
    /// the same game again and again; other players choose among equal moves at random.
    pub drawn_plies: usize,
    /// The random seed.
    pub seed: u64,
}

struct MatchGame<G> {
    position: G,
    /// Whether the first side makes the first move.
    first_begins: bool,
    rng: ChaCha8Rng,
}

impl<G: Game> MatchGame<G> {
    fn is_over(&self) -> bool {
        self.position.outcome().is_some()
    }

    fn first_to_move(&self) -> bool {
        self.position.ply().is_multiple_of(2) == self.first_begins
    }
}

/// Plays a match, all games at once.
///
/// # Errors
/// Those of the evaluators; [`crate::Error::Stopped`].
pub fn play_match<G: Game>(
    first: Side<'_, G>,
    second: Side<'_, G>,
    options: MatchOptions,
    stop: &Stop,
) -> Result<Score> {
    let mut games: Vec<MatchGame<G>> = (0..options.games)
        .map(|number| MatchGame {
            position: G::default(),
            first_begins: number.is_multiple_of(2),
            rng: stream(options.seed, Purpose::Evaluation, number as u64),
        })
        .collect();
    while games.iter().any(|game| !game.is_over()) {
        for (side, is_first) in [(first, true), (second, false)] {
            let mut turns: Vec<&mut MatchGame<G>> = games
                .iter_mut()
                .filter(|game| !game.is_over() && game.first_to_move() == is_first)
                .collect();
            play_turns(side, &mut turns, options, stop)?;
        }
    }
    let mut score = Score::default();
    for game in &games {
        let mover = match game.position.outcome() {
            Some(Outcome::Draw) | None => {
                score.draws += 1;
                continue;
            }
            Some(Outcome::Win) => true,
            Some(Outcome::Loss) => false,
        };
        match game.first_to_move() == mover {
            true => score.wins += 1,
            false => score.losses += 1,
        }
    }
    Ok(score)
}

/// Makes one move in each game.
fn play_turns<G: Game>(
    side: Side<'_, G>,
    turns: &mut [&mut MatchGame<G>],
    options: MatchOptions,
    stop: &Stop,
) -> Result<()> {
    match side {
        Side::Player(player) => {
            for game in turns {
                let action = player.choose(&game.position, &mut game.rng);
                game.position.play(action);
            }
        }
        Side::Network(evaluator, search_options) => {
            let positions: Vec<G> = turns.iter().map(|game| game.position).collect();
            let trees = searched(&positions, evaluator, search_options, stop)?;
            for (game, tree) in turns.iter_mut().zip(trees) {
                let visits = tree.visits();
                let action = match game.position.ply() < options.drawn_plies {
                    true => draw(&visits, 1.0, &mut game.rng),
                    false => most_visited(&visits),
                };
                game.position.play(action);
            }
        }
    }
    Ok(())
}

/// Searches positions, without noise.
fn searched<G: Game>(
    positions: &[G],
    evaluator: &dyn Evaluator<G>,
    options: SearchOptions,
    stop: &Stop,
) -> Result<Vec<Tree<G>>> {
    let mut trees: Vec<Tree<G>> = positions.iter().copied().map(Tree::new).collect();
    // The first descent only evaluates the root.
    let options = SearchOptions { simulations: options.simulations + 1, ..options };
    let mut cache = Cache::new(evaluator);
    search(&mut trees.iter_mut().collect::<Vec<_>>(), &mut cache, options, stop)?;
    Ok(trees)
}

/// The most visited move of a search in `position`, and the search's value for the player to move
/// and visits of each action.
///
/// # Errors
/// Those of the evaluator; [`crate::Error::Stopped`].
pub fn best_move<G: Game>(
    position: &G,
    evaluator: &dyn Evaluator<G>,
    options: SearchOptions,
    stop: &Stop,
) -> Result<(usize, f32, Vec<u32>)> {
    let trees = searched(&[*position], evaluator, options, stop)?;
    let visits = trees[0].visits();
    Ok((most_visited(&visits), trees[0].value(), visits))
}

/// The player that a configuration names.
pub fn opponent<G: Game>(opponent: Opponent) -> Box<dyn Player<G>> {
    match opponent {
        Opponent::Random => Box::new(Random),
        Opponent::AlphaBeta { depth } => Box::new(AlphaBeta::new(depth)),
    }
}
