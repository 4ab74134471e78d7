//! An AlphaZero-style self-play trainer for Connect Four.

pub mod config;
pub mod metrics;
