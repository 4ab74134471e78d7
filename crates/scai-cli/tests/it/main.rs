//! What the command line says, as snapshots; how it ends.
//!
//! `cargo insta review`, or `INSTA_UPDATE=always cargo test -p scai-cli`, takes over what changed.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests prepare real files and panic when something does not hold"
)]

mod convert;
mod diff;
mod directory;
mod show;
mod support;
mod usage;
mod verify;
