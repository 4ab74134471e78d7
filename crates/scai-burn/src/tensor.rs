//! A tensor of burn as a tensor of a checkpoint, and back.

use burn::module::ParamId;
use burn::tensor::kind::{Autodiff, Basic};
use burn::tensor::{
    DType as BurnDType, GradientCheckpointingStrategy, Tensor as BurnTensor, TensorData,
};
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Error, Result, Tensor};

use crate::dtype::checkpoint_dtype;
use crate::name::{Layout, Spec};

/// The element type that a tensor of a checkpoint has in burn's memory.
fn data_dtype(dtype: DType) -> Option<BurnDType> {
    Some(match dtype {
        DType::Float64 => BurnDType::F64,
        DType::Float32 => BurnDType::F32,
        DType::Float16 => BurnDType::F16,
        DType::BFloat16 => BurnDType::BF16,
        DType::Int64 => BurnDType::I64,
        DType::Int32 => BurnDType::I32,
        DType::Int16 => BurnDType::I16,
        DType::Int8 => BurnDType::I8,
        DType::UInt64 => BurnDType::U64,
        DType::UInt32 => BurnDType::U32,
        DType::UInt16 => BurnDType::U16,
        DType::UInt8 => BurnDType::U8,
        DType::Bool => BurnDType::Bool(burn::tensor::BoolStore::Native),
        _ => return None,
    })
}

/// A tensor of burn as one of a checkpoint. It is shared; its bytes are read when they are written.
pub(crate) fn to_checkpoint<const D: usize, K>(
    tensor: BurnTensor<D, K>,
    spec: &Spec,
) -> Result<Tensor>
where
    K: Basic + Send + Sync + 'static,
{
    let dtype = checkpoint_dtype(tensor.dtype(), &spec.name)?;
    let stored = data_dtype(dtype).unwrap_or(tensor.dtype());
    let tensor = match spec.layout {
        Layout::Transposed => tensor.transpose(),
        Layout::Same => tensor,
    };
    let len = (spec.shape.iter().product::<usize>() * dtype.size()) as u64;
    let name = spec.name.clone();
    let storage = Storage::produced(len, move || {
        let unreadable = |error: &dyn std::fmt::Debug| {
            Error::Invalid(format!("tensor `{name}` cannot be read from its device: {error:?}"))
        };
        let data = tensor.clone().try_into_data().map_err(|error| unreadable(&error))?;
        let data = data.try_cast(stored).map_err(|error| unreadable(&error))?;
        Ok(data.as_bytes().to_vec())
    });
    Tensor::contiguous(dtype, spec.shape.clone(), storage)
}

/// A tensor of a checkpoint as one of burn, on the device of `spec`.
///
/// The elements are in memory row by row, as burn itself lays them out: a transposed view would
/// have the same elements, but products of matrices would differ in their last bits.
///
/// # Errors
/// If the bytes cannot be read, or element type or rank are not those of `spec`.
pub(crate) fn from_checkpoint<const D: usize, K: Basic>(
    tensor: &Tensor,
    spec: &Spec,
) -> Result<BurnTensor<D, K>> {
    let expected = checkpoint_dtype(spec.dtype, &spec.name)?;
    let stored = data_dtype(tensor.dtype()).filter(|_| tensor.dtype() == expected);
    let (Some(stored), Ok(mut shape)) = (stored, <[usize; D]>::try_from(spec.shape.as_slice()))
    else {
        return Err(Error::Invalid(format!(
            "tensor `{}` has {} {:?} in the checkpoint and {} {:?} in the model",
            spec.name,
            tensor.dtype().name(),
            tensor.shape(),
            expected.name(),
            spec.shape
        )));
    };
    let mut bytes = tensor.to_bytes().map_err(|error| error.at_tensor(&spec.name))?;
    if let (Layout::Transposed, &[rows, columns]) = (spec.layout, spec.shape.as_slice()) {
        bytes = transposed(&bytes, rows, columns, stored.size());
        shape.reverse();
    }
    let data = TensorData::try_from_bytes_vec(bytes, shape, stored)
        .map_err(|error| Error::Invalid(format!("tensor `{}`: {error:?}", spec.name)))?;
    Ok(BurnTensor::from_data(data, (&spec.device, spec.dtype)))
}

/// The elements of a matrix of `rows` and `columns`, column by column.
fn transposed(bytes: &[u8], rows: usize, columns: usize, size: usize) -> Vec<u8> {
    let mut transposed = Vec::with_capacity(bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let start = (row * columns + column) * size;
            transposed.extend_from_slice(&bytes[start..start + size]);
        }
    }
    transposed
}

/// How a tensor takes part in automatic differentiation, which a new value of it takes over.
///
/// Burn refuses an operation on tensors with different strategies of gradient checkpointing.
#[derive(Debug, Clone)]
pub(crate) struct Tracking {
    autodiff: bool,
    checkpointing: Option<GradientCheckpointingStrategy>,
    require_grad: bool,
    distributed: bool,
}

impl Tracking {
    pub(crate) fn is_autodiff(&self) -> bool {
        self.autodiff
    }

    pub(crate) fn of_float<const D: usize>(tensor: &BurnTensor<D>) -> Self {
        Self {
            require_grad: tensor.is_require_grad(),
            // Burn allows this only for tensors with automatic differentiation.
            distributed: tensor.is_autodiff() && tensor.is_distributed(),
            ..Self::of(tensor)
        }
    }

    pub(crate) fn of<const D: usize, K: Autodiff>(tensor: &BurnTensor<D, K>) -> Self {
        Self {
            autodiff: tensor.is_autodiff(),
            checkpointing: tensor.gradient_checkpointing_strategy(),
            require_grad: false,
            distributed: false,
        }
    }

    pub(crate) fn apply_to_float<const D: usize>(
        &self,
        tensor: BurnTensor<D>,
        id: ParamId,
    ) -> BurnTensor<D> {
        let mut tensor = self.apply_to(tensor);
        if self.require_grad {
            tensor = tensor.require_grad();
        }
        if self.distributed {
            tensor = tensor.set_distributed(id);
        }
        tensor
    }

    pub(crate) fn apply_to<const D: usize, K: Autodiff>(
        &self,
        tensor: BurnTensor<D, K>,
    ) -> BurnTensor<D, K> {
        let tensor = if self.autodiff { tensor.autodiff() } else { tensor.without_autodiff() };
        match self.checkpointing {
            Some(strategy) => tensor.with_gradient_checkpointing_strategy(strategy),
            None => tensor,
        }
    }
}
