//! One file a command.

pub(crate) mod list;
pub(crate) mod pin;
pub(crate) mod prune;
pub(crate) mod verify;
