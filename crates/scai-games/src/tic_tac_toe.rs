//! Tic-tac-toe.

use std::fmt;

use crate::game::{Game, Outcome};

const SIDE: usize = 3;
const CELLS: usize = SIDE * SIDE;
/// Every cell; bit `row * 3 + column`.
const BOARD: u16 = (1 << CELLS) - 1;
/// Rows, columns and diagonals.
const LINES: [u16; 8] = [
    0b000_000_111,
    0b000_111_000,
    0b111_000_000,
    0b001_001_001,
    0b010_010_010,
    0b100_100_100,
    0b100_010_001,
    0b001_010_100,
];

/// Tic-tac-toe.
///
/// Actions are cells, row by row from the top left. [`encode`](Game::encode) writes three planes:
/// the marks of the player to move, those of the opponent, and ones if the first player is to move.
/// The symmetries are those of the square: number `s` transposes the board if `s >= 4`, then
/// rotates it clockwise by `s % 4` quarter turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TicTacToe {
    /// Marks of the player to move.
    own: u16,
    /// Marks of both players.
    all: u16,
}

impl TicTacToe {
    fn opponent(&self) -> u16 {
        self.own ^ self.all
    }

    fn first_to_move(&self) -> bool {
        self.ply().is_multiple_of(2)
    }
}

fn has_line(marks: u16) -> bool {
    LINES.into_iter().any(|line| marks & line == line)
}

impl Game for TicTacToe {
    const NAME: &'static str = "tictactoe";
    const ACTIONS: usize = CELLS;
    const PLANES: [usize; 3] = [3, SIDE, SIDE];
    const SYMMETRIES: usize = 8;
    const MAX_PLIES: usize = CELLS;

    fn is_legal(&self, action: usize) -> bool {
        action < CELLS && self.all & (1 << action) == 0 && !has_line(self.opponent())
    }

    fn play(&mut self, action: usize) {
        if self.is_legal(action) {
            let opponent = self.opponent();
            self.all |= 1 << action;
            self.own = opponent;
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        if has_line(self.opponent()) {
            Some(Outcome::Loss)
        } else {
            (self.all == BOARD).then_some(Outcome::Draw)
        }
    }

    fn ply(&self) -> usize {
        self.all.count_ones() as usize
    }

    fn encode(&self, planes: &mut [u8]) {
        let turn = if self.first_to_move() { BOARD } else { 0 };
        for (plane, marks) in planes.chunks_mut(CELLS).zip([self.own, self.opponent(), turn]) {
            for (cell, value) in plane.iter_mut().enumerate() {
                *value = u8::from(marks & (1 << cell) != 0);
            }
        }
    }

    fn cell_under(symmetry: usize, cell: usize) -> usize {
        if symmetry >= Self::SYMMETRIES || cell >= CELLS {
            return cell;
        }
        let (mut row, mut column) = (cell / SIDE, cell % SIDE);
        if symmetry >= 4 {
            (row, column) = (column, row);
        }
        for _ in 0..symmetry % 4 {
            (row, column) = (column, SIDE - 1 - row);
        }
        row * SIDE + column
    }

    fn action_under(symmetry: usize, action: usize) -> usize {
        Self::cell_under(symmetry, action)
    }

    /// How many more lines are open to the player to move than to the opponent. A line is open to
    /// a player if the other has no mark in it.
    fn heuristic(&self) -> i32 {
        let blocked =
            |marks: u16| LINES.into_iter().map(|line| i32::from(marks & line != 0)).sum::<i32>();
        blocked(self.own) - blocked(self.opponent())
    }
}

impl fmt::Display for TicTacToe {
    /// Draws the board. A cell that is free shows what a person types to play there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = if self.first_to_move() {
            (self.own, self.opponent())
        } else {
            (self.opponent(), self.own)
        };
        for cell in 0..CELLS {
            match 1 << cell {
                bit if first & bit != 0 => write!(f, "X")?,
                bit if second & bit != 0 => write!(f, "O")?,
                _ => write!(f, "{}", Self::action_name(cell))?,
            }
            match (cell + 1) % SIDE {
                0 if cell + 1 == CELLS => {}
                0 => writeln!(f)?,
                _ => write!(f, " ")?,
            }
        }
        Ok(())
    }
}
