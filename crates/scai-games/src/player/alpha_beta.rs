//! Search to a fixed depth.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::Player;
use crate::game::{Game, Outcome};

/// What a win is worth, less the number of moves it takes. Estimates stay below half of it.
const WIN: i32 = 1 << 20;

/// Looks a fixed number of moves ahead and takes the best.
///
/// The search is negamax with alpha-beta pruning; if it ends before the game does, it uses
/// [`Game::heuristic`]. A win is worth more the sooner it comes, a loss the later. Among moves of
/// equal worth the choice is random.
#[derive(Debug, Clone, Copy)]
pub struct AlphaBeta {
    depth: usize,
}

impl AlphaBeta {
    /// A player that looks `depth` moves ahead, its own included. 0 counts as 1.
    pub fn new(depth: usize) -> Self {
        Self { depth: depth.max(1) }
    }

    /// Every legal action of the highest worth.
    fn best_actions<G: Game>(self, position: &G) -> Vec<usize> {
        let mut best = Vec::new();
        let mut highest = -WIN;
        for action in middle_first::<G>().filter(|&action| position.is_legal(action)) {
            let mut next = *position;
            next.play(action);
            // The window ends just below the best so far: what equals it is found exactly.
            let worth = -negamax(&next, self.depth - 1, -WIN, 1 - highest);
            if worth > highest {
                highest = worth;
                best.clear();
            }
            if worth == highest {
                best.push(action);
            }
        }
        best
    }
}

impl<G: Game> Player<G> for AlphaBeta {
    fn name(&self) -> String {
        format!("alpha-beta {}", self.depth)
    }

    fn choose(&self, position: &G, rng: &mut dyn Rng) -> usize {
        self.best_actions(position).choose(rng).copied().unwrap_or_default()
    }
}

/// What `position` is worth to the player to move: exact between `alpha` and `beta`, otherwise a
/// bound on the same side.
fn negamax<G: Game>(position: &G, depth: usize, mut alpha: i32, beta: i32) -> i32 {
    let at_end = WIN - i32::try_from(position.ply()).unwrap_or(WIN / 2);
    match position.outcome() {
        Some(Outcome::Win) => return at_end,
        Some(Outcome::Draw) => return 0,
        Some(Outcome::Loss) => return -at_end,
        None if depth == 0 => return position.heuristic().clamp(1 - WIN / 2, WIN / 2 - 1),
        None => {}
    }
    for action in middle_first::<G>().filter(|&action| position.is_legal(action)) {
        let mut next = *position;
        next.play(action);
        alpha = alpha.max(-negamax(&next, depth - 1, -beta, -alpha));
        if alpha >= beta {
            break;
        }
    }
    alpha
}

/// All actions, those in the middle of the range first. On the boards here they are the moves in
/// the middle of the board, which are often the best, and a good move seen early prunes the rest.
fn middle_first<G: Game>() -> impl Iterator<Item = usize> {
    let middle = G::ACTIONS / 2;
    (0..=G::ACTIONS)
        .filter_map(move |i| {
            if i % 2 == 0 { Some(middle + i / 2) } else { middle.checked_sub(i.div_ceil(2)) }
        })
        .filter(|&action| action < G::ACTIONS)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{ConnectFour, Random, TicTacToe};

    fn minimax<G: Game>(position: &G, depth: usize) -> i32 {
        match position.outcome() {
            Some(outcome) => {
                outcome.value() as i32 * (WIN - i32::try_from(position.ply()).unwrap())
            }
            None if depth == 0 => position.heuristic(),
            None => after_each(position).map(|(_, next)| -minimax(&next, depth - 1)).max().unwrap(),
        }
    }

    fn after_each<G: Game>(position: &G) -> impl Iterator<Item = (usize, G)> {
        position.legal_actions().map(|action| {
            let mut next = *position;
            next.play(action);
            (action, next)
        })
    }

    /// Compares the best actions along games of random moves.
    fn agrees_with_minimax<G: Game>(depths: std::ops::RangeInclusive<usize>, games: u64) {
        for seed in 0..games {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut position = G::default();
            while position.outcome().is_none() {
                for depth in depths.clone() {
                    let worths: Vec<_> = after_each(&position)
                        .map(|(action, next)| (action, -minimax(&next, depth - 1)))
                        .collect();
                    let highest = worths.iter().map(|&(_, worth)| worth).max().unwrap();
                    let expected: Vec<_> = worths
                        .iter()
                        .filter(|&&(_, worth)| worth == highest)
                        .map(|&(action, _)| action)
                        .collect();
                    let mut found = AlphaBeta::new(depth).best_actions(&position);
                    found.sort_unstable();
                    assert_eq!(found, expected, "depth {depth}\n{position}");
                }
                let action = Random.choose(&position, &mut rng);
                position.play(action);
            }
        }
    }

    #[test]
    fn the_best_moves_are_those_of_plain_minimax() {
        agrees_with_minimax::<ConnectFour>(1..=4, 6);
        agrees_with_minimax::<TicTacToe>(1..=5, 20);
    }

    #[test]
    fn every_action_is_tried_once_from_the_middle() {
        assert_eq!(middle_first::<ConnectFour>().collect::<Vec<_>>(), [3, 2, 4, 1, 5, 0, 6]);
        assert_eq!(middle_first::<TicTacToe>().collect::<Vec<_>>(), [4, 3, 5, 2, 6, 1, 7, 0, 8]);
    }
}
