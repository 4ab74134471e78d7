//! Tensors: an element type and a strided view of a storage that others may share.

mod read;
mod storage;

use bytemuck::{NoUninit, Pod};
use twox_hash::XxHash3_128;

pub use crate::dtype::{DType, UnknownDType};
use read::read_whole;
pub use read::{Destination, read_into};
pub(crate) use read::{Divided, PIECE, read_storages};
pub use storage::{Pass, Source, Storage};
pub(crate) use storage::{PlainPass, read_away};

use crate::error::{Error, Result};

/// A strided view of a [`Storage`].
///
/// Shape and strides are in elements, as in PyTorch; the offset is the element of the storage that
/// index zero refers to. Nothing is read or copied until bytes are asked for.
#[derive(Debug, Clone)]
pub struct Tensor {
    dtype: DType,
    attributes: Attributes,
    /// The shape, then as many strides: one allocation, since trees hold many small tensors.
    dims: Box<[usize]>,
    offset: usize,
    storage: Storage,
}

/// Dimensions a tensor can have; PyTorch's own limit.
pub const MAX_RANK: usize = 64;

/// A view that repeats elements (stride zero) may be written out up to this many bytes, or as many
/// as its storage has. Without a limit a file of 1 KiB could ask for petabytes.
const MAX_EXPANDED: u64 = 1 << 30;

/// Bytes that are read at a time for a digest.
const DIGEST_PIECE: usize = 1 << 20;

/// What PyTorch keeps with a tensor besides its elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Gradients are recorded for it.
    pub requires_grad: bool,
    /// It is a `torch.nn.Parameter`.
    pub parameter: bool,
    /// The elements are the complex conjugates of the stored ones.
    pub conjugate: bool,
    /// The elements are the negatives of the stored ones.
    pub negative: bool,
}

/// Rust types that are elements of tensors.
pub trait Element: Pod + Send + Sync {
    /// The element type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })*
    };
}

elements! {
    f32 => Float32, f64 => Float64, i64 => Int64, i32 => Int32, i16 => Int16, i8 => Int8,
    u8 => UInt8, u16 => UInt16, u32 => UInt32, u64 => UInt64,
}

impl Tensor {
    /// A view of `storage`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if shape and strides differ in length or an element would lie outside the
    /// storage.
    pub fn new(
        dtype: DType,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        storage: Storage,
    ) -> Result<Self> {
        if shape.len() > MAX_RANK {
            return Err(Error::invalid(format!(
                "a tensor of {} dimensions; at most {MAX_RANK} are possible",
                shape.len()
            )));
        }
        let needed = span(&shape, &strides, offset)
            .and_then(|elements| elements.checked_mul(dtype.size()))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "a tensor of shape {shape:?} with strides {strides:?} at offset {offset} \
                     cannot exist"
                ))
            })?;
        if needed as u64 > storage.len() {
            return Err(Error::invalid(format!(
                "a {dtype} tensor of shape {shape:?} with strides {strides:?} at offset {offset} \
                 needs {needed} bytes, but its storage has {}",
                storage.len()
            )));
        }
        let dims = [shape, strides].concat().into();
        Ok(Self { dtype, attributes: Attributes::default(), dims, offset, storage })
    }

    /// A tensor over the whole of `storage`, in row-major order.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the storage is too short for the shape.
    pub fn contiguous(dtype: DType, shape: Vec<usize>, storage: Storage) -> Result<Self> {
        let strides = contiguous_strides(&shape);
        Self::new(dtype, shape, strides, 0, storage)
    }

    /// A tensor of the elements of `values`, in row-major order, without copying them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number of values is not that of the shape.
    ///
    /// ```
    /// use scai_checkpoint::{DType, Tensor};
    ///
    /// let weight = Tensor::from_vec(vec![2, 3], vec![0.0_f32; 6])?;
    /// assert_eq!(weight.dtype(), DType::Float32);
    /// assert_eq!(weight.strides(), [3, 1]);
    /// # Ok::<(), scai_checkpoint::Error>(())
    /// ```
    pub fn from_vec<T: Element + NoUninit>(shape: Vec<usize>, values: Vec<T>) -> Result<Self> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::invalid(format!(
                "{} values do not make a tensor of shape {shape:?}",
                values.len()
            )));
        }
        Self::contiguous(T::DTYPE, shape, Storage::from_vec(values))
    }

    /// The same tensor with other attributes.
    #[must_use]
    pub fn with_attributes(self, attributes: Attributes) -> Self {
        Self { attributes, ..self }
    }

    /// The same view of other memory that holds the same bytes.
    pub(crate) fn with_storage(&self, storage: Storage) -> Self {
        Self { storage, ..self.clone() }
    }

    /// The same tensor on a storage of nothing but the bytes that it spans. Nothing is read or copied.
    #[must_use]
    pub fn compact(&self) -> Self {
        let steps = self.shape().iter().zip(self.strides()).map(|(len, stride)| (len - 1) * stride);
        let span = if self.numel() == 0 { 0 } else { steps.sum::<usize>() + 1 };
        let size = self.dtype.size() as u64;
        let begin = if span == 0 { 0 } else { self.offset as u64 * size };
        let storage = self.storage.section(begin..begin + span as u64 * size);
        Self { offset: 0, storage, ..self.clone() }
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The length of each dimension; empty for a single number.
    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.dims.len() / 2]
    }

    /// Elements of the storage between neighbours, for each dimension.
    pub fn strides(&self) -> &[usize] {
        &self.dims[self.dims.len() / 2..]
    }

    /// The element of the storage that index zero refers to.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The memory this is a view of.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// What PyTorch keeps with the tensor besides its elements.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        if self.shape().contains(&0) { 0 } else { self.shape().iter().product() }
    }

    /// Bytes the elements take, without what the storage holds besides.
    pub fn nbytes(&self) -> u64 {
        (self.numel() as u64).saturating_mul(self.dtype.size() as u64)
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.numel() == 0
            || self.shape().iter().zip(self.strides()).rev().all(|(&len, &stride)| {
                let fits = len == 1 || stride == expected;
                expected *= len;
                fits
            })
    }

    /// Whether the elements fill a run of the storage, in any order: none is skipped and none repeated.
    pub fn is_dense(&self) -> bool {
        self.numel() == 0 || memory_order(self.shape(), self.strides()).is_some()
    }

    /// Whether the elements repeat the storage too often to be written out.
    pub(crate) fn repeats_too_much(&self) -> bool {
        self.nbytes() > self.storage.len().max(MAX_EXPANDED)
    }

    /// The elements in row-major order, as little-endian bytes.
    ///
    /// Only what is needed is read. Conjugate and negative views give the stored elements.
    ///
    /// # Errors
    /// [`Error::Damaged`] if bytes on disk are not those that were saved.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let size = self.dtype.size();
        let Some(span) = span(self.shape(), self.strides(), 0).filter(|_| self.numel() > 0) else {
            return Ok(Vec::new());
        };
        let start = (self.offset * size) as u64;
        let range = start..start + (span * size) as u64;
        let window = if range == (0..self.storage.len()) {
            read_whole(&self.storage)?
        } else {
            self.storage.read(range)?
        };
        if self.is_contiguous() {
            return Ok(window);
        }
        if self.repeats_too_much() {
            return Err(Error::invalid(format!(
                "a view of shape {:?} repeats the elements of a storage of {} bytes too often to \
                 be written out",
                self.shape(),
                self.storage.len()
            )));
        }
        crate::memory::room_for(self.numel() * size, "copy a tensor")?;
        let mut out = Vec::with_capacity(self.numel() * size);
        gather(&window, self.shape(), self.strides(), 0, size, &mut out);
        Ok(out)
    }

    /// The XXH3-128 digest of [`Tensor::to_bytes`]: equal for tensors that hold the same elements.
    ///
    /// A contiguous tensor takes no memory of its size.
    ///
    /// # Errors
    /// As [`Tensor::to_bytes`].
    pub fn digest(&self) -> Result<u128> {
        if !self.is_contiguous() {
            return Ok(XxHash3_128::oneshot(&self.to_bytes()?));
        }
        let start = (self.offset * self.dtype.size()) as u64;
        let end = start + self.nbytes();
        if let Some(bytes) = self.storage.as_slice() {
            return Ok(XxHash3_128::oneshot(&bytes[start as usize..end as usize]));
        }
        let mut hasher = XxHash3_128::new();
        for at in (start..end).step_by(DIGEST_PIECE) {
            hasher.write(&self.storage.read(at..end.min(at + DIGEST_PIECE as u64))?);
        }
        Ok(hasher.finish_128())
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the tensor's elements are of another type; [`Error::Damaged`] as for
    /// [`Tensor::to_bytes`].
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            return Err(Error::invalid(format!(
                "the tensor holds {}, not {}",
                self.dtype,
                T::DTYPE
            )));
        }
        Ok(bytemuck::allocation::pod_collect_to_vec(&self.to_bytes()?))
    }
}

/// Row-major strides. A dimension of length zero counts as one, as in PyTorch.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut next = 1_usize;
    for (stride, &len) in strides.iter_mut().zip(shape).rev() {
        *stride = next;
        next = next.saturating_mul(len.max(1));
    }
    strides
}

/// The dimensions that count, outermost in memory first, if the elements fill a run of memory in
/// some order; `None` if there are gaps or overlaps.
pub(crate) fn memory_order(shape: &[usize], strides: &[usize]) -> Option<Vec<usize>> {
    let mut dims: Vec<usize> = (0..shape.len()).filter(|&dim| shape[dim] != 1).collect();
    dims.sort_by_key(|&dim| std::cmp::Reverse(strides[dim]));
    let mut expected = 1_usize;
    for &dim in dims.iter().rev() {
        if strides[dim] != expected {
            return None;
        }
        expected = expected.checked_mul(shape[dim])?;
    }
    Some(dims)
}

/// One more than the largest element index a view touches; zero for an empty one; `None` if the
/// numbers do not fit or the lengths differ.
fn span(shape: &[usize], strides: &[usize], offset: usize) -> Option<usize> {
    if shape.len() != strides.len() {
        return None;
    }
    shape.iter().filter(|&&len| len > 1).try_fold(1_usize, |n, &len| n.checked_mul(len))?;
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |last, (&len, &stride)| last.checked_add((len - 1).checked_mul(stride)?));
    last?.checked_add(1).filter(|&end| end <= isize::MAX as usize)
}

/// Appends the elements of a strided view to `out`, in row-major order.
fn gather(
    bytes: &[u8],
    shape: &[usize],
    strides: &[usize],
    at: usize,
    size: usize,
    out: &mut Vec<u8>,
) {
    match (shape, strides) {
        ([len, shape @ ..], [stride, strides @ ..]) => {
            for index in 0..*len {
                gather(bytes, shape, strides, at + index * stride, size, out);
            }
        }
        _ => out.extend_from_slice(&bytes[at * size..(at + 1) * size]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_view_gathers_in_row_major_order() {
        let storage = Storage::from_vec(vec![0_u8, 1, 2, 3, 4, 5]);
        let view = Tensor::new(DType::UInt8, vec![3, 2], vec![1, 3], 0, storage).unwrap();
        assert_eq!(view.to_bytes().unwrap(), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn a_view_outside_its_storage_is_refused() {
        let storage = Storage::from_vec(vec![0_u8; 6]);
        let view = |shape: &[usize], strides: &[usize], offset| {
            Tensor::new(DType::UInt8, shape.into(), strides.into(), offset, storage.clone())
        };
        assert!(view(&[2, 3], &[3, 1], 0).is_ok());
        assert!(view(&[2, 3], &[3, 1], 1).is_err());
        assert!(view(&[2, usize::MAX], &[3, 1], 0).is_err());
        assert!(view(&[usize::MAX, usize::MAX], &[0, 0], 0).is_err());
        assert!(view(&[0, 5], &[usize::MAX, 1], 6).is_ok());
        assert!(view(&[2], &[1, 1], 0).is_err());
    }

    #[test]
    fn a_digest_is_of_the_elements_wherever_they_are() {
        let values: Vec<u16> = (0..3 * DIGEST_PIECE / 4).map(|i| i as u16 % 251).collect();
        let digest = |storage, offset: usize| {
            let len = values.len() - 1;
            Tensor::new(DType::UInt16, vec![len], vec![1], offset, storage).unwrap().digest()
        };
        let bytes: Vec<u8> = bytemuck::cast_slice(&values).to_vec();
        let len = bytes.len() as u64;
        let on_disk = Storage::produced(len, move || Ok(bytes.clone()));
        let in_memory = Storage::from_vec(values.clone());
        assert!(on_disk.as_slice().is_none());
        let expected = XxHash3_128::oneshot(bytemuck::cast_slice(&values[1..]));
        assert_eq!(digest(in_memory.clone(), 1).unwrap(), expected);
        assert_eq!(digest(on_disk, 1).unwrap(), expected);
        assert_ne!(digest(in_memory, 0).unwrap(), expected);

        let storage = Storage::from_vec(vec![0_u8, 1, 2, 3, 4, 5]);
        let view = Tensor::new(DType::UInt8, vec![3, 2], vec![1, 3], 0, storage).unwrap();
        assert_eq!(view.digest().unwrap(), XxHash3_128::oneshot(&[0, 3, 1, 4, 2, 5]));
    }
}
