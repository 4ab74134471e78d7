//! A directory of checkpoints.

mod report;

pub use report::{LoadReport, ShapeMismatch};
