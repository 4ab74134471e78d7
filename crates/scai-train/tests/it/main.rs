//! The promises of the trainer, kept.

mod exactness;
mod search;
mod support;
mod transfer;
