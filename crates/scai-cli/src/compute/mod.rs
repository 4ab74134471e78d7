//! What is computed from state trees and tensors. Nothing here prints.

pub(crate) mod cast;
pub(crate) mod compare;
pub(crate) mod difference;
pub(crate) mod numbers;
pub(crate) mod stats;
pub(crate) mod totals;
