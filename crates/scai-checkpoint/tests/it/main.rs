//! The integration tests of the engine, as one binary.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests look at real files, panic when something does not hold and print what they saw"
)]

mod payload;
mod power_loss;
mod store;
mod store_faults;
