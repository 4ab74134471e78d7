//! What the engine promises, as seen from outside.
#![allow(missing_docs)]

mod damage;
mod describe;
mod forge;
mod fuzz_checks;
mod golden;
mod support;
