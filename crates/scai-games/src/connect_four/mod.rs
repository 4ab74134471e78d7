//! Connect Four.

pub(crate) mod bits;

use std::fmt;

use self::bits::{CELLS, COLUMNS, ROWS};
use crate::game::{Game, Outcome, SolvedPosition};

/// What an open three, an open two and a disc in the centre column are worth in
/// [`ConnectFour::heuristic`].
const THREE: i32 = 5;
const TWO: i32 = 2;
const CENTRE: i32 = 3;

/// Connect Four on the usual board of six rows and seven columns.
///
/// Actions are columns, from the left. [`encode`](Game::encode) writes three planes: the discs of
/// the player to move, those of the opponent, and ones if the first player is to move. The
/// symmetries are the identity and the mirror image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ConnectFour {
    /// Discs of the player to move.
    own: u64,
    /// Discs of both players.
    all: u64,
}

impl ConnectFour {
    /// The position after `moves`, the columns played, counted from 1.
    ///
    /// `None` if a character is not a column, a column is full, or the game was over before.
    ///
    /// ```
    /// use scai_games::{ConnectFour, Game};
    ///
    /// let position = ConnectFour::from_moves("4435").unwrap();
    /// assert_eq!(position.ply(), 4);
    /// assert_eq!(ConnectFour::from_moves("8"), None);
    /// ```
    pub fn from_moves(moves: &str) -> Option<Self> {
        let mut position = Self::default();
        for column in moves.chars() {
            let action = usize::try_from(column.to_digit(10)?).ok()?.checked_sub(1)?;
            if !position.is_legal(action) {
                return None;
            }
            position.play(action);
        }
        Some(position)
    }

    /// A number that identifies the position; it fits in 49 bits and is never 0.
    pub fn key(&self) -> u64 {
        bits::key(self.own, self.all)
    }

    /// Discs of the player to move.
    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    /// Discs of both players.
    pub(crate) fn all(&self) -> u64 {
        self.all
    }

    fn opponent(&self) -> u64 {
        self.own ^ self.all
    }

    fn first_to_move(&self) -> bool {
        self.ply().is_multiple_of(2)
    }
}

impl Game for ConnectFour {
    const NAME: &'static str = "connect4";
    const ACTIONS: usize = COLUMNS;
    const PLANES: [usize; 3] = [3, ROWS, COLUMNS];
    const SYMMETRIES: usize = 2;
    const MAX_PLIES: usize = CELLS;

    fn is_legal(&self, action: usize) -> bool {
        action < COLUMNS
            && bits::landings(self.all) & bits::column(action) != 0
            && !bits::has_four(self.opponent())
    }

    fn play(&mut self, action: usize) {
        if self.is_legal(action) {
            let opponent = self.opponent();
            self.all |= bits::landings(self.all) & bits::column(action);
            self.own = opponent;
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        if bits::has_four(self.opponent()) {
            Some(Outcome::Loss)
        } else {
            (self.all == bits::BOARD).then_some(Outcome::Draw)
        }
    }

    fn ply(&self) -> usize {
        self.all.count_ones() as usize
    }

    fn encode(&self, planes: &mut [u8]) {
        let turn = if self.first_to_move() { bits::BOARD } else { 0 };
        for (plane, discs) in planes.chunks_mut(CELLS).zip([self.own, self.opponent(), turn]) {
            for (cell, value) in plane.iter_mut().enumerate() {
                *value = u8::from(discs & bits::cell(cell / COLUMNS, cell % COLUMNS) != 0);
            }
        }
    }

    fn cell_under(symmetry: usize, cell: usize) -> usize {
        if symmetry == 1 && cell < CELLS {
            cell / COLUMNS * COLUMNS + (COLUMNS - 1 - cell % COLUMNS)
        } else {
            cell
        }
    }

    fn action_under(symmetry: usize, action: usize) -> usize {
        if symmetry == 1 && action < COLUMNS { COLUMNS - 1 - action } else { action }
    }

    /// Counts what the player to move has more of than the opponent: lines of four cells with
    /// three or two discs of one player and none of the other, and discs in the centre column.
    fn solved_positions() -> &'static [SolvedPosition<Self>] {
        crate::positions::positions()
    }

    fn heuristic(&self) -> i32 {
        let empty = bits::BOARD & !self.all;
        let of = |discs: u64| {
            let (threes, twos) = bits::open_threes_and_twos(discs, empty);
            let centre = (discs & bits::column(COLUMNS / 2)).count_ones().cast_signed();
            THREE * threes + TWO * twos + CENTRE * centre
        };
        of(self.own) - of(self.opponent())
    }
}

impl fmt::Display for ConnectFour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = if self.first_to_move() {
            (self.own, self.opponent())
        } else {
            (self.opponent(), self.own)
        };
        writeln!(f, "1 2 3 4 5 6 7")?;
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let cell = bits::cell(row, column);
                let disc = match cell {
                    _ if first & cell != 0 => 'X',
                    _ if second & cell != 0 => 'O',
                    _ => '.',
                };
                let space = if column == 0 { "" } else { " " };
                write!(f, "{space}{disc}")?;
            }
            if row + 1 < ROWS {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
