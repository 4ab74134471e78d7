//! Which memory may be read while training goes on.

use pyo3::prelude::*;

use crate::encode::{Description, describe};
use crate::memory::SMALL;
use crate::torch::Torch;

/// Where tensors begin that only a step of the optimizer changes, and others, which may lie in the
/// same memory.
#[derive(Debug)]
#[pyclass(frozen, module = "scai._native")]
pub(crate) struct Live {
    /// In order, as the next.
    tensors: Vec<usize>,
    others: Vec<usize>,
}

#[pymethods]
impl Live {
    /// `others` is looked at only where one of `tensors` is long enough to be read later.
    #[new]
    fn new(tensors: &Bound<'_, PyAny>, others: &Bound<'_, PyAny>) -> PyResult<Self> {
        let tensors = addresses(tensors, SMALL)?;
        let others = if tensors.is_empty() { Vec::new() } else { addresses(others, 1)? };
        Ok(Self { tensors, others })
    }

    fn __bool__(&self) -> bool {
        !self.tensors.is_empty()
    }

    /// Whether memory holds one of the tensors and none of the others.
    pub(crate) fn covers(&self, address: usize, nbytes: usize) -> bool {
        let holds_one = |addresses: &[usize]| {
            let next = addresses.partition_point(|&other| other < address);
            addresses.get(next).is_some_and(|&other| other - address < nbytes)
        };
        holds_one(&self.tensors) && !holds_one(&self.others)
    }
}

/// Where ordinary tensors of at least so many bytes begin, in order.
fn addresses(tensors: &Bound<'_, PyAny>, smallest: usize) -> PyResult<Vec<usize>> {
    let torch = Torch::get(tensors.py())?;
    let mut addresses = Vec::new();
    for tensor in tensors.try_iter()? {
        let tensor = tensor?;
        let class = tensor.get_type();
        if !(class.is(&torch.tensor) || class.is(&torch.parameter)) {
            continue;
        }
        let asked = || {
            // Of one that cannot be saved, the save will speak.
            let Description { dtype, place } = describe(torch, &tensor).ok().flatten()?;
            Some((place.address, place.shape.iter().product::<usize>() * dtype.size()))
        };
        let extent = torch.exchange.and_then(|exchange| exchange.extent(&tensor));
        if let Some((address, len)) = extent.or_else(asked)
            && len >= smallest
        {
            addresses.push(address);
        }
    }
    addresses.sort_unstable();
    Ok(addresses)
}
