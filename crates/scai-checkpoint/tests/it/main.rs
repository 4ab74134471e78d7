//! What the engine promises, as seen from outside.
#![allow(missing_docs)]

mod describe;
mod golden;
mod support;
