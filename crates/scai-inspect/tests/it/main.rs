//! What is seen in checkpoints, against naive computations and small files.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests look at real files, and panic when something does not hold"
)]

mod diff;
mod files;
mod naive;
mod stats;
