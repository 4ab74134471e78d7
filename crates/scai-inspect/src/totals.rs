//! How much a part of the tree holds.

use std::collections::HashSet;

use scai_checkpoint::Value;
use serde::Serialize;

/// Sums over tensors; those that are views of the same memory count once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Tensors.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Bytes of the elements.
    pub bytes: u64,
}

impl Totals {
    /// The totals of a value and all below it.
    pub fn of(value: &Value) -> Self {
        let mut seen = HashSet::new();
        let mut totals = Self::default();
        value.visit(&mut |_, value| {
            if let Value::Tensor(tensor) = value
                && seen.insert((tensor.storage().id(), tensor.offset(), tensor.nbytes()))
            {
                totals.tensors += 1;
                totals.elements = totals.elements.saturating_add(tensor.numel() as u64);
                totals.bytes = totals.bytes.saturating_add(tensor.nbytes());
            }
        });
        totals
    }
}
