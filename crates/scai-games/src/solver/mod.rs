//! A perfect player of Connect Four.
//!
//! The method is that of Pascal Pons, *Solving Connect 4: how to build a perfect AI*
//! (<http://blog.gamesolver.org>, 2015): negamax with alpha-beta pruning on bitboards, a table of
//! positions already searched, moves ordered by the threats they create, moves that lose at once
//! left out, and the score found by a sequence of searches with a window of width one.
//!
//! # Scores
//!
//! A score says who wins and how early, if both play perfectly. It is the number of discs the
//! winner has left when the game ends, the last one played counted as left: 1 for a win with the
//! last disc, 18 for a win with the fourth. It is positive if the player to move wins, negative if
//! the opponent does, and 0 for a draw.

mod table;

use std::fmt;

use self::table::{Bound, Table};
use crate::connect_four::{ConnectFour, bits};
use crate::game::{Game, Outcome};

/// Columns in the order they are tried if nothing else decides.
const MIDDLE_FIRST: [usize; bits::COLUMNS] = [3, 2, 4, 1, 5, 0, 6];

/// Solves Connect Four.
///
/// What one call finds makes the next call on a related position faster. A solver takes 64 MiB.
pub struct Solver {
    table: Table,
}

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver").finish_non_exhaustive()
    }
}

impl Default for Solver {
    fn default() -> Self {
        Self::new()
    }
}

impl Solver {
    /// A solver without any positions yet.
    pub fn new() -> Self {
        Self { table: Table::new() }
    }

    /// The [score](self#scores) of `position` for the player to move.
    ///
    /// The time grows with what is left to play: milliseconds after 16 moves, seconds after 6.
    ///
    /// ```
    /// use scai_games::{ConnectFour, solver::Solver};
    ///
    /// // Three discs on the bottom row with both ends free: four in a row with the fourth disc.
    /// let position = ConnectFour::from_moves("334455").unwrap();
    /// assert_eq!(Solver::new().solve(&position), 18);
    /// ```
    pub fn solve(&mut self, position: &ConnectFour) -> i32 {
        let ply = position.ply();
        match position.outcome() {
            Some(Outcome::Draw) => return 0,
            Some(Outcome::Win) => return win_at(ply),
            Some(Outcome::Loss) => return -win_at(ply),
            None => {}
        }
        let node = Node { own: position.own(), all: position.all() };
        if node.wins_at_once() {
            return win_at(ply + 1);
        }
        // The opponent may win with the next disc, the player to move with the one after it.
        let mut low = -win_at(ply + 2);
        let mut high = win_at(ply + 3);
        while low < high {
            // Whether it is a win, a draw or a loss comes first, then how early.
            let middle = match (low, high) {
                (..0, 1..) => 0,
                (..0, 0) => -1,
                _ => low + (high - low) / 2,
            };
            if self.negamax(node, middle, middle + 1) <= middle {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// The [score](self#scores), for the player to move, of playing each column; `None` if that is
    /// not legal.
    pub fn verdicts(&mut self, position: &ConnectFour) -> [Option<i32>; bits::COLUMNS] {
        let mut verdicts = [None; bits::COLUMNS];
        for (action, verdict) in verdicts.iter_mut().enumerate() {
            if position.is_legal(action) {
                let mut next = *position;
                next.play(action);
                *verdict = Some(-self.solve(&next));
            }
        }
        verdicts
    }

    /// The score of a position that the player to move cannot win at once: exact between `alpha`
    /// and `beta`, otherwise a bound on the same side.
    fn negamax(&mut self, node: Node, mut alpha: i32, mut beta: i32) -> i32 {
        let ply = node.all.count_ones() as usize;
        let moves = node.moves_that_do_not_lose_at_once();
        if moves == 0 {
            return -win_at(ply + 2);
        }
        if ply + 2 >= bits::CELLS {
            return 0;
        }
        // Neither player wins with the next disc.
        let mut lowest = -win_at(ply + 4);
        let mut highest = win_at(ply + 3);
        let key = bits::key(node.own, node.all);
        match self.table.get(key) {
            Some(Bound::AtLeast(score)) => lowest = score,
            Some(Bound::AtMost(score)) => highest = score,
            None => {}
        }
        if lowest >= beta || lowest == highest {
            return lowest;
        }
        if highest <= alpha {
            return highest;
        }
        alpha = alpha.max(lowest);
        beta = beta.min(highest);
        let (ordered, count) = node.most_threatening_first(moves);
        for &landing in ordered.iter().take(count) {
            let score = -self.negamax(node.after(landing), -beta, -alpha);
            if score >= beta {
                self.table.put(key, Bound::AtLeast(score));
                return score;
            }
            alpha = alpha.max(score);
        }
        self.table.put(key, Bound::AtMost(alpha));
        alpha
    }
}

/// The score of a win with the disc number `ply`, counted from 1, for the winner.
fn win_at(ply: usize) -> i32 {
    (2 + bits::CELLS).saturating_sub(ply) as i32 / 2
}

/// A position as the search sees it.
#[derive(Clone, Copy)]
struct Node {
    /// Discs of the player to move.
    own: u64,
    /// Discs of both players.
    all: u64,
}

impl Node {
    fn after(self, landing: u64) -> Self {
        Self { own: self.own ^ self.all, all: self.all | landing }
    }

    fn wins_at_once(self) -> bool {
        bits::threats(self.own, self.all) & bits::landings(self.all) != 0
    }

    /// The moves after which the opponent cannot win at once.
    fn moves_that_do_not_lose_at_once(self) -> u64 {
        let landings = bits::landings(self.all);
        let threats = bits::threats(self.own ^ self.all, self.all);
        let forced = landings & threats;
        let moves = match forced.count_ones() {
            0 => landings,
            1 => forced,
            _ => 0,
        };
        // A disc just below a threat lets the opponent play it.
        moves & !(threats >> 1)
    }

    /// The `moves` in the order to try them, and how many there are: those that leave the player
    /// more cells to win at come first.
    fn most_threatening_first(self, moves: u64) -> ([u64; bits::COLUMNS], usize) {
        let mut ordered = [0; bits::COLUMNS];
        let mut threats = [0; bits::COLUMNS];
        let mut count = 0;
        for column in MIDDLE_FIRST {
            let landing = moves & bits::column(column);
            if landing == 0 {
                continue;
            }
            let created = bits::threats(self.own | landing, self.all | landing).count_ones();
            let mut place = count;
            while place > 0 && threats[place - 1] < created {
                ordered[place] = ordered[place - 1];
                threats[place] = threats[place - 1];
                place -= 1;
            }
            ordered[place] = landing;
            threats[place] = created;
            count += 1;
        }
        (ordered, count)
    }
}
