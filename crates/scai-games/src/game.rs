//! What a game is to a search, a network and a person.

use std::fmt::{Debug, Display};
use std::hash::Hash;

/// A game of two players who move alternately, with full information and a result that is a win, a
/// draw or a loss.
///
/// A value is a position; [`Default`] is the position before the first move. [`Display`] draws the
/// board, `X` for the first player.
///
/// A symmetry `s` maps games to games: playing `action_under(s, a)` for every action `a` of a game
/// leads to the position whose planes are those of the first with each cell moved to
/// `cell_under(s, cell)`, with the same outcome.
pub trait Game: Copy + Default + Eq + Hash + Debug + Display + Send + Sync + 'static {
    /// What a configuration calls the game, such as `connect4`.
    const NAME: &'static str;
    /// Actions are the numbers below this.
    const ACTIONS: usize;
    /// Channels, rows and columns of [`encode`](Self::encode).
    const PLANES: [usize; 3];
    /// How many symmetries the game has, with the identity, which is number 0.
    const SYMMETRIES: usize;
    /// No game takes more moves.
    const MAX_PLIES: usize;

    /// Whether the player to move may play `action`.
    ///
    /// False for every action once the game is over, and for actions out of range.
    fn is_legal(&self, action: usize) -> bool;

    /// Plays `action`; then the other player is to move. An illegal action leaves the position as
    /// it is.
    fn play(&mut self, action: usize);

    /// The result for the player to move, or `None` while the game goes on.
    fn outcome(&self) -> Option<Outcome>;

    /// Moves played since the start.
    fn ply(&self) -> usize;

    /// Writes the position into `planes`, each cell 0 or 1, as the player to move sees it.
    ///
    /// `planes` holds as many cells as the product of [`PLANES`](Self::PLANES), channel by channel,
    /// each row by row, the top row first. Every cell is written; cells beyond are not.
    fn encode(&self, planes: &mut [u8]);

    /// What `cell` (row × columns + column) becomes under a symmetry.
    ///
    /// Numbers out of range are returned unchanged, under any symmetry.
    fn cell_under(symmetry: usize, cell: usize) -> usize;

    /// What `action` becomes under a symmetry.
    ///
    /// Numbers out of range are returned unchanged, under any symmetry.
    fn action_under(symmetry: usize, action: usize) -> usize;

    /// An estimate of a position that is not over, for the player to move: 0 if both players stand
    /// equally well, positive if the player to move stands better.
    ///
    /// It is for a search that ends before the game does, and does not look ahead.
    fn heuristic(&self) -> i32;

    /// The actions that are legal, in ascending order.
    fn legal_actions(&self) -> impl Iterator<Item = usize> {
        (0..Self::ACTIONS).filter(|&action| self.is_legal(action))
    }

    /// Positions that a perfect solver has judged, if there are any.
    fn solved_positions() -> &'static [SolvedPosition<Self>] {
        &[]
    }

    /// What a person types to play `action`: its number, counted from 1.
    fn action_name(action: usize) -> String {
        (action + 1).to_string()
    }
}

/// A position with a perfect solver's verdict on every action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SolvedPosition<G> {
    /// The position; it is not over.
    pub position: G,
    /// For each action the score of the player to move: positive if it wins, 0 for a draw; the
    /// larger, the sooner. `None` if the action is illegal.
    pub verdicts: Vec<Option<i32>>,
}

impl<G> SolvedPosition<G> {
    /// Whether `action` keeps what the best move achieves: a win, a draw, or else a loss. How
    /// early a win or a loss comes does not matter.
    pub fn is_optimal(&self, action: usize) -> bool {
        let best = self.verdicts.iter().flatten().max();
        let verdict = self.verdicts.get(action).copied().flatten();
        verdict.is_some_and(|verdict| best.is_some_and(|best| verdict.signum() == best.signum()))
    }
}

/// How a game ended, as one of the players sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The player has won.
    Win,
    /// Nobody has won.
    Draw,
    /// The other player has won.
    Loss,
}

impl Outcome {
    /// The outcome as a training target: 1, 0 or -1.
    pub fn value(self) -> f32 {
        match self {
            Self::Win => 1.0,
            Self::Draw => 0.0,
            Self::Loss => -1.0,
        }
    }
}
