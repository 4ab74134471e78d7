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
mod players;
mod solver;
mod support;
mod tic_tac_toe;
