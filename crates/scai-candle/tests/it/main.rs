//! What the adapter promises, as seen from outside; one binary.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests look at real files, panic when something does not hold and say what they skip"
)]

mod example;
mod model;
mod optimizer;
mod pytorch;
mod resume;
mod support;
