//! Two-player board games, and players that need no network.

mod connect_four;
mod game;
mod player;
pub mod solver;
mod tic_tac_toe;

pub use connect_four::ConnectFour;
pub use game::{Game, Outcome};
pub use player::{AlphaBeta, Player, Random};
pub use tic_tac_toe::TicTacToe;
