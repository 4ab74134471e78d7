//! One file a command.

pub(crate) mod convert;
pub(crate) mod diff;
pub(crate) mod list;
pub(crate) mod pin;
pub(crate) mod prune;
pub(crate) mod show;
pub(crate) mod verify;
