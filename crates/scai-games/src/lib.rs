//! Two-player board games, and players that need no network.
//!
//! ```
//! use rand::SeedableRng;
//! use rand_chacha::ChaCha8Rng;
//! use scai_games::{AlphaBeta, ConnectFour, Game, Outcome, Player, Random};
//!
//! let players: [&dyn Player<ConnectFour>; 2] = [&AlphaBeta::new(4), &Random];
//! let mut rng = ChaCha8Rng::seed_from_u64(1);
//! let mut position = ConnectFour::default();
//! while position.outcome().is_none() {
//!     let action = players[position.ply() % 2].choose(&position, &mut rng);
//!     position.play(action);
//! }
//! // The player to move has lost: the other one made the last move.
//! assert_eq!(position.outcome(), Some(Outcome::Loss));
//! assert_eq!(position.ply() % 2, 1, "after an odd number of moves, that is the first player");
//! ```

mod connect_four;
mod game;
mod player;
pub mod positions;
pub mod solver;
mod tic_tac_toe;

pub use connect_four::ConnectFour;
pub use game::{Game, Outcome, SolvedPosition};
pub use player::{AlphaBeta, Player, Random};
pub use tic_tac_toe::TicTacToe;
