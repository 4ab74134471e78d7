//! A tensor of candle as a tensor of a checkpoint, and back.

use std::sync::Arc;

use bytemuck::cast_slice;
use candle_core::{CpuStorage, DType as CandleDType, Device, Tensor as CandleTensor};
use half::slice::HalfFloatSliceExt;
use scai_checkpoint::tensor::{Source, Storage};
use scai_checkpoint::{Error, Result, Tensor};

use crate::dtype::{candle_dtype, checkpoint_dtype};

/// A tensor of candle as one of a checkpoint.
///
/// On the CPU it is shared, so nobody may write to it afterwards: variables are copied first.
pub(crate) fn to_checkpoint(tensor: &CandleTensor, name: &str) -> Result<Tensor> {
    let dtype = checkpoint_dtype(tensor.dtype(), name)?;
    let on_cpu = tensor.detach().to_device(&Device::Cpu).and_then(|tensor| tensor.contiguous());
    let elements =
        Elements { tensor: on_cpu.map_err(|error| of_candle(name, &error))?, size: dtype.size() };
    Tensor::contiguous(dtype, tensor.dims().to_vec(), Storage::new(Arc::new(elements)))
}

/// A tensor of a checkpoint as one of candle with elements of `dtype`, on `device`.
///
/// # Errors
/// If the bytes cannot be read, or candle does not have their type or cannot convert it.
pub(crate) fn from_checkpoint(
    tensor: &Tensor,
    dtype: CandleDType,
    device: &Device,
    name: &str,
) -> Result<CandleTensor> {
    let saved = candle_dtype(tensor.dtype(), name)?;
    let bytes = tensor.to_bytes().map_err(|error| error.at_tensor(name))?;
    CandleTensor::from_raw_buffer(&bytes, saved, tensor.shape(), device)
        .and_then(|tensor| tensor.to_dtype(dtype))
        .map_err(|error| of_candle(name, &error))
}

pub(crate) fn of_candle(name: &str, error: &candle_core::Error) -> Error {
    Error::Invalid(format!("tensor `{name}`: {error}"))
}

/// The elements of a contiguous tensor on the CPU that does not change, as bytes.
struct Elements {
    tensor: CandleTensor,
    /// Bytes an element takes.
    size: usize,
}

impl Source for Elements {
    fn len(&self) -> u64 {
        (self.tensor.elem_count() * self.size) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (storage, layout) = self.tensor.storage_and_layout();
        let start = usize::try_from(offset).ok().map(|at| layout.start_offset() * self.size + at);
        let read = match &*storage {
            candle_core::Storage::Cpu(storage) => start.and_then(|at| copy_bytes(storage, at, buf)),
            _ => None,
        };
        read.ok_or_else(|| {
            let (wanted, there) = (buf.len(), self.len());
            Error::Invalid(format!("{wanted} bytes at {offset} are not among {there} on the CPU"))
        })
    }
}

/// Fills `buf` with the bytes of `storage` from `start` on. Returns `None` if there are fewer.
fn copy_bytes(storage: &CpuStorage, start: usize, buf: &mut [u8]) -> Option<()> {
    let end = start.checked_add(buf.len())?;
    let bytes: &[u8] = match storage {
        CpuStorage::U8(elements) => elements,
        CpuStorage::U32(elements) => cast_slice(elements),
        CpuStorage::I16(elements) => cast_slice(elements),
        CpuStorage::I32(elements) => cast_slice(elements),
        CpuStorage::I64(elements) => cast_slice(elements),
        CpuStorage::BF16(elements) => cast_slice(elements.reinterpret_cast()),
        CpuStorage::F16(elements) => cast_slice(elements.reinterpret_cast()),
        CpuStorage::F32(elements) => cast_slice(elements),
        CpuStorage::F64(elements) => cast_slice(elements),
        CpuStorage::F8E4M3(elements) => {
            let bits = elements.get(start..end)?.iter().map(|element| element.to_bits());
            buf.iter_mut().zip(bits).for_each(|(byte, bits)| *byte = bits);
            return Some(());
        }
        _ => return None,
    };
    buf.copy_from_slice(bytes.get(start..end)?);
    Some(())
}
