//! What the games and the players promise, as seen from outside; one binary.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests panic when something does not hold"
)]

mod connect_four;
mod game;
#[allow(dead_code, reason = "`main` is for the command line")]
#[path = "../../examples/make_positions.rs"]
mod make_positions;
mod players;
mod positions;
mod solver;
mod support;
mod tic_tac_toe;
