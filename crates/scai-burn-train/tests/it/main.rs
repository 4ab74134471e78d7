//! The learner's checkpoints: what is committed, what a kill leaves, what the user reads.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests look at real files, panic when something does not hold and print what burn does"
)]

mod kills;
mod protocol;
mod records;
mod restore;
mod training;
mod words;
