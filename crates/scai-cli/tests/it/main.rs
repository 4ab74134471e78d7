//! What the command line says, as snapshots; how it ends.
//!
//! `cargo insta review`, or `INSTA_UPDATE=always cargo test -p scai-cli`, takes over what changed.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests prepare real files, panic when something does not hold and say what they skip"
)]

mod convert;
mod dcp;
mod diff;
mod directory;
#[cfg(feature = "train")]
mod play;
#[cfg(feature = "train")]
mod retention;
mod show;
mod support;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod train_errors;
#[cfg(feature = "train")]
mod train_kill;
#[cfg(feature = "train")]
mod train_support;
mod usage;
mod verify;
