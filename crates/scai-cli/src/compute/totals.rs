//! How much a part of the tree holds.

use std::collections::HashSet;

use scai_checkpoint::{Tensor, Value};
use serde::Serialize;

/// Sums over tensors; those that see the same memory count once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) tensors: usize,
    pub(crate) elements: u64,
    pub(crate) bytes: u64,
}

/// The totals of a value and all below it.
pub(crate) fn totals(value: &Value) -> Totals {
    let mut seen = HashSet::new();
    let mut totals = Totals::default();
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

/// What two tensors have in common that are the same memory.
pub(crate) type View<'a> = (usize, usize, &'a [usize], &'a [usize], usize);

pub(crate) fn view(tensor: &Tensor) -> View<'_> {
    let id = tensor.storage().id();
    (id, tensor.offset(), tensor.shape(), tensor.strides(), tensor.dtype().size())
}
