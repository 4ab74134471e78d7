//! The name, shape and layout that PyTorch has for a tensor of a burn module.

use burn::tensor::kind::Basic;
use burn::tensor::{DType as BurnDType, Device, Tensor as BurnTensor};
use scai_checkpoint::load::TensorSpec;
use scai_checkpoint::{DType, Result};

use crate::dtype::checkpoint_dtype;

/// What a tensor of a module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is trained.
    Parameter,
    /// It is saved but not trained: a running statistic, or a constant of integers.
    Buffer,
}

/// How a tensor's elements are ordered in a module, compared with PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As in PyTorch.
    Same,
    /// Rows and columns are exchanged.
    Transposed,
}

/// A tensor of a module, as PyTorch would describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Its name in the state dict.
    pub(crate) name: String,
    /// Its shape in the state dict.
    pub(crate) shape: Vec<usize>,
    /// Its element type in the module.
    pub(crate) dtype: BurnDType,
    /// Its device, without automatic differentiation.
    pub(crate) device: Device,
    pub(crate) role: Role,
    pub(crate) layout: Layout,
    /// The counter that follows it in a state dict of PyTorch: burn's batch norm has none.
    pub(crate) counter: Option<String>,
}

impl Spec {
    /// The entry of the state dict that the tensor is loaded from.
    ///
    /// # Errors
    /// If no element type of PyTorch corresponds to the tensor's.
    pub(crate) fn entry(&self) -> Result<TensorSpec> {
        let dtype = checkpoint_dtype(self.dtype, &self.name)?;
        Ok(TensorSpec { name: self.name.clone(), dtype, shape: self.shape.clone() })
    }

    /// The entry of the counter that follows the tensor, if one does.
    pub(crate) fn counter_entry(&self) -> Option<TensorSpec> {
        let name = self.counter.clone()?;
        Some(TensorSpec { name, dtype: DType::Int64, shape: Vec::new() })
    }
}

/// The path to the current position while a module is visited.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// The names so far, each with the type that it is a field of.
    parts: Vec<(String, String)>,
}

impl Path {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.parts.push((name.to_owned(), container.to_owned()));
    }

    pub(crate) fn exit(&mut self) {
        self.parts.pop();
    }

    /// What PyTorch calls the tensor at this position.
    pub(crate) fn name(&self) -> String {
        let (field, container) = self.last();
        self.sibling(renamed(field, container))
    }

    /// The tensor at this position, as PyTorch would describe it.
    pub(crate) fn spec<const D: usize, K: Basic>(&self, tensor: &BurnTensor<D, K>) -> Spec {
        let (mut shape, dtype) = (tensor.dims().to_vec(), tensor.dtype());
        let (field, container) = self.last();
        let batch_norm = container == "Struct:BatchNorm";
        let role = match field {
            "running_mean" | "running_var" if batch_norm => Role::Buffer,
            _ if dtype.is_int() || dtype.is_uint() || dtype.is_bool() => Role::Buffer,
            _ => Role::Parameter,
        };
        let counter =
            (batch_norm && field == "running_var").then(|| self.sibling("num_batches_tracked"));
        let layout = match container == "Struct:Linear" && field == "weight" && shape.len() == 2 {
            true => Layout::Transposed,
            false => Layout::Same,
        };
        if layout == Layout::Transposed {
            shape.reverse();
        }
        let (name, device) = (self.name(), tensor.device());
        Spec { name, shape, dtype, device, role, layout, counter }
    }

    fn last(&self) -> (&str, &str) {
        self.parts.last().map_or(("", ""), |(field, container)| (field, container))
    }

    /// The name of a field beside the one at this position.
    fn sibling(&self, field: &str) -> String {
        let parents = self.parts.iter().rev().skip(1).rev().map(|(name, _)| name.as_str());
        parents.chain([field]).collect::<Vec<_>>().join(".")
    }
}

/// What PyTorch calls a field of one of burn's modules.
fn renamed<'a>(field: &'a str, container: &str) -> &'a str {
    let is_norm = matches!(
        container,
        "Struct:BatchNorm"
            | "Struct:GroupNorm"
            | "Struct:InstanceNorm"
            | "Struct:LayerNorm"
            | "Struct:RmsNorm"
    );
    match field {
        "gamma" if is_norm => "weight",
        "beta" if is_norm => "bias",
        "alpha" if container == "Struct:PRelu" => "weight",
        field => field,
    }
}
