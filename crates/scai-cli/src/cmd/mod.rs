//! One file per command.

pub(crate) mod convert;
pub(crate) mod diff;
#[cfg(feature = "train")]
pub(crate) mod eval;
pub(crate) mod list;
pub(crate) mod pin;
#[cfg(feature = "train")]
pub(crate) mod play;
pub(crate) mod prune;
pub(crate) mod rollback;
pub(crate) mod show;
#[cfg(feature = "train")]
pub(crate) mod train;
pub(crate) mod verify;
