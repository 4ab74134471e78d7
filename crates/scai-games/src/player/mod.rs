//! Players that need no network.

mod alpha_beta;

use rand::Rng;
use rand::seq::IteratorRandom;

pub use self::alpha_beta::AlphaBeta;
use crate::game::Game;

/// Who chooses moves.
///
/// A player keeps no state between moves: the same position and the same state of the random
/// generator give the same choice.
pub trait Player<G: Game>: Send + Sync {
    /// What a table of results calls the player.
    fn name(&self) -> String;

    /// A legal action in `position`, which is not over. If it is over after all, 0.
    fn choose(&self, position: &G, rng: &mut dyn Rng) -> usize;
}

/// Plays any legal action, each with the same probability.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random;

impl<G: Game> Player<G> for Random {
    fn name(&self) -> String {
        "random".to_owned()
    }

    fn choose(&self, position: &G, rng: &mut dyn Rng) -> usize {
        position.legal_actions().choose(rng).unwrap_or_default()
    }
}
