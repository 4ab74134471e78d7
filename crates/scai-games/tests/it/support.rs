//! A board kept as an array, with the rules spelled out, to compare the games with.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use scai_games::{ConnectFour, Game, Outcome, TicTacToe};

pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A game with what [`Board`] has to know of it.
pub(crate) trait Rules: Game {
    /// How many marks in a line win.
    const LINE: usize;
    /// The cell that `action` fills on `board`, if there is room.
    fn lands(board: &Board<Self>, action: usize) -> Option<usize>;
}

impl Rules for ConnectFour {
    const LINE: usize = 4;
    fn lands(board: &Board<Self>, action: usize) -> Option<usize> {
        (0..6).rev().map(|row| row * 7 + action).find(|&cell| board.cells[cell].is_none())
    }
}

impl Rules for TicTacToe {
    const LINE: usize = 3;
    fn lands(board: &Board<Self>, action: usize) -> Option<usize> {
        board.cells[action].is_none().then_some(action)
    }
}

/// Who has marked each cell, row by row from the top: player 0 or player 1.
#[derive(Clone, Debug)]
pub(crate) struct Board<G> {
    pub(crate) cells: Vec<Option<usize>>,
    pub(crate) ply: usize,
    game: std::marker::PhantomData<G>,
}

impl<G: Rules> Board<G> {
    pub(crate) fn new() -> Self {
        let [_, rows, columns] = G::PLANES;
        Self { cells: vec![None; rows * columns], ply: 0, game: std::marker::PhantomData }
    }

    pub(crate) fn mover(&self) -> usize {
        self.ply % 2
    }

    pub(crate) fn is_legal(&self, action: usize) -> bool {
        self.outcome().is_none() && action < G::ACTIONS && G::lands(self, action).is_some()
    }

    pub(crate) fn play(&mut self, action: usize) {
        let cell = G::lands(self, action).unwrap();
        self.cells[cell] = Some(self.mover());
        self.ply += 1;
    }

    fn has_line(&self, player: usize) -> bool {
        let [_, rows, columns] = G::PLANES;
        let marked = |row: isize, column: isize| {
            (0..rows as isize).contains(&row)
                && (0..columns as isize).contains(&column)
                && self.cells[row as usize * columns + column as usize] == Some(player)
        };
        (0..rows as isize).any(|row| {
            (0..columns as isize).any(|column| {
                [(0, 1), (1, 0), (1, 1), (1, -1)].into_iter().any(|(down, right)| {
                    (0..G::LINE as isize).all(|i| marked(row + i * down, column + i * right))
                })
            })
        })
    }

    /// For the player to move, as [`Game::outcome`].
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if self.has_line(self.mover()) {
            Some(Outcome::Win)
        } else if self.has_line(1 - self.mover()) {
            Some(Outcome::Loss)
        } else {
            self.cells.iter().all(Option::is_some).then_some(Outcome::Draw)
        }
    }

    pub(crate) fn planes(&self) -> Vec<u8> {
        let of = |player: usize| self.cells.iter().map(move |&cell| u8::from(cell == Some(player)));
        let turn = self.cells.iter().map(|_| u8::from(self.mover() == 0));
        of(self.mover()).chain(of(1 - self.mover())).chain(turn).collect()
    }
}

pub(crate) fn planes<G: Game>(position: &G) -> Vec<u8> {
    // Filled with what no cell may be, so that a cell that is not written shows.
    let mut planes = vec![7; G::PLANES.into_iter().product()];
    position.encode(&mut planes);
    planes
}
