//! By how much two tensors of one shape and dtype differ.

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{DType, Result, Tensor};
use serde::Serialize;

use crate::elements::{DECODED_AT_ONCE, Elements, decode};
use crate::number::optional_float;

/// How the elements of two tensors differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorDifference {
    /// Elements whose bits differ.
    pub differing: u64,
    /// All elements.
    pub elements: u64,
    /// The largest absolute difference; `None` if the elements are not numbers.
    #[serde(serialize_with = "optional_float")]
    pub max_abs: Option<f64>,
    /// The largest difference relative to the larger of the two magnitudes.
    #[serde(serialize_with = "optional_float")]
    pub max_rel: Option<f64>,
    /// Pairs of which one or both are NaN, or of which the difference is infinite. They are not
    /// included above.
    pub not_finite: u64,
}

/// What comparing two tensors found.
#[derive(Debug)]
pub(super) struct Compared {
    /// How they differ; `None` if they are equal bit for bit.
    pub(super) difference: Option<TensorDifference>,
    /// Bytes that were read from both.
    pub(super) read: u64,
}

/// Whether two tensors are equal, as far as digests show.
pub(super) fn by_digests(a: &Tensor, b: &Tensor) -> Option<bool> {
    let (ours, theirs) = (a.storage().digest()?, b.storage().digest()?);
    let same_place = a.offset() == b.offset() && a.strides() == b.strides();
    if !same_place || a.storage().len() != b.storage().len() {
        return None;
    }
    if ours == theirs {
        return Some(true);
    }
    // Other bytes of the storage may be what differs.
    let whole = a.is_dense() && a.nbytes() == a.storage().len();
    whole.then_some(false)
}

/// Reads what is needed of two tensors of one shape and dtype, and compares it.
///
/// # Errors
/// Those of reading the tensors; [`scai_checkpoint::Error::Cancelled`].
pub(super) fn compare(a: &Tensor, b: &Tensor, options: ReadOptions<'_>) -> Result<Compared> {
    let mut sums = Sums::new(a.dtype());
    let mut read = 0;
    if a.is_dense() && b.is_dense() && a.strides() == b.strides() {
        let size = a.dtype().size() as u64;
        let (from_a, from_b) = (a.offset() as u64 * size, b.offset() as u64 * size);
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < a.nbytes() {
            options.check()?;
            // Up to the end of a chunk of the first file, so that digests can cover all of it.
            let len = (DECODED_AT_ONCE - (from_a + at) % DECODED_AT_ONCE).min(a.nbytes() - at);
            if !(from_a == from_b && same_chunk(a, b, from_a + at)) {
                left.resize(len as usize, 0);
                right.resize(len as usize, 0);
                a.storage().read_at(from_a + at, &mut left)?;
                b.storage().read_at(from_b + at, &mut right)?;
                read += 2 * len;
                options.report(2 * len);
                sums.add(&left, &right);
            }
            at += len;
        }
    } else {
        options.check()?;
        let (left, right) = (a.to_bytes()?, b.to_bytes()?);
        read = (left.len() + right.len()) as u64;
        options.report(read);
        let len = DECODED_AT_ONCE as usize;
        let parts = left.chunks(len).zip(right.chunks(len));
        parts.for_each(|(left, right)| sums.add(left, right));
    }
    Ok(Compared { difference: sums.finish(a.numel() as u64), read })
}

/// Whether the digests of the chunk at `offset` are known and equal.
fn same_chunk(a: &Tensor, b: &Tensor, offset: u64) -> bool {
    let index = (offset / DECODED_AT_ONCE) as usize;
    let digest = |tensor: &Tensor| Some(*tensor.storage().digests()?.get(index)?);
    let same_len = a.storage().len() == b.storage().len();
    same_len && digest(a).is_some_and(|ours| digest(b) == Some(ours))
}

struct Sums {
    dtype: DType,
    differing: u64,
    not_finite: u64,
    max_abs: f64,
    max_rel: f64,
    are_numbers: bool,
}

impl Sums {
    fn new(dtype: DType) -> Self {
        let are_numbers = decode(dtype, &[]).is_some();
        Self { dtype, differing: 0, not_finite: 0, max_abs: 0.0, max_rel: 0.0, are_numbers }
    }

    fn add(&mut self, a: &[u8], b: &[u8]) {
        if a == b {
            return;
        }
        let size = self.dtype.size();
        let differs = a.chunks(size).zip(b.chunks(size)).map(|(a, b)| a != b);
        let differs: Vec<bool> = differs.collect();
        self.differing += differs.iter().filter(|&&differs| differs).count() as u64;
        let (Some(a), Some(b)) = (decode(self.dtype, a), decode(self.dtype, b)) else { return };
        match (a, b) {
            (Elements::Ints(a), Elements::Ints(b)) => {
                for (a, b) in a.into_iter().zip(b) {
                    self.pair(a.abs_diff(b) as f64, a.unsigned_abs().max(b.unsigned_abs()) as f64);
                }
            }
            (Elements::Floats(a), Elements::Floats(b)) => {
                for ((a, b), differs) in a.into_iter().zip(b).zip(differs) {
                    if differs {
                        self.pair((a - b).abs(), a.abs().max(b.abs()));
                    }
                }
            }
            (Elements::Complex(a), Elements::Complex(b)) => {
                for ((a, b), differs) in a.into_iter().zip(b).zip(differs) {
                    if differs {
                        let distance = (a[0] - b[0]).hypot(a[1] - b[1]);
                        self.pair(distance, a[0].hypot(a[1]).max(b[0].hypot(b[1])));
                    }
                }
            }
            _ => {}
        }
    }

    /// Adds a pair by its distance and the larger magnitude.
    fn pair(&mut self, distance: f64, magnitude: f64) {
        if !distance.is_finite() {
            self.not_finite += 1;
        } else if distance > 0.0 {
            self.max_abs = self.max_abs.max(distance);
            self.max_rel = self.max_rel.max(distance / magnitude);
        }
    }

    fn finish(self, elements: u64) -> Option<TensorDifference> {
        let known = |x: f64| self.are_numbers.then_some(x);
        (self.differing > 0).then(|| TensorDifference {
            differing: self.differing,
            elements,
            max_abs: known(self.max_abs),
            max_rel: known(self.max_rel),
            not_finite: self.not_finite,
        })
    }
}

#[cfg(test)]
mod tests {
    use scai_checkpoint::tensor::Storage;

    use super::*;

    fn difference(a: &Tensor, b: &Tensor) -> Option<TensorDifference> {
        compare(a, b, ReadOptions::default()).unwrap().difference
    }

    #[test]
    fn the_largest_difference_is_found_beyond_the_first_part() {
        let a: Vec<f32> = (0..50_000).map(|i| i as f32).collect();
        let mut b = a.clone();
        b[40_000] += 4.0;
        b[3] += 0.5;
        let (a, b) = (Tensor::from_vec(vec![50_000], a), Tensor::from_vec(vec![50_000], b));
        let found = difference(&a.unwrap(), &b.unwrap()).unwrap();
        assert_eq!((found.differing, found.elements, found.not_finite), (2, 50_000, 0));
        assert_eq!(found.max_abs, Some(4.0));
        assert_eq!(found.max_rel, Some(0.5 / 3.5));
    }

    #[test]
    fn bits_decide_and_not_numbers_count_apart() {
        let of = |values: [f32; 3]| Tensor::from_vec(vec![3], values.to_vec()).unwrap();
        assert!(difference(&of([f32::NAN, 0.0, 1.0]), &of([f32::NAN, 0.0, 1.0])).is_none());
        let found = difference(&of([f32::NAN, 0.0, 1.0]), &of([2.0, -0.0, 1.0])).unwrap();
        assert_eq!((found.differing, found.not_finite), (2, 1));
        assert_eq!(found.max_abs, Some(0.0));
    }

    #[test]
    fn a_transposed_view_equals_its_copy() {
        let storage = Storage::from_vec(vec![0_i16, 1, 2, 3, 4, 5]);
        let view = Tensor::new(DType::Int16, vec![3, 2], vec![1, 3], 0, storage).unwrap();
        let copy = Tensor::from_vec(vec![3, 2], vec![0_i16, 3, 1, 4, 2, 5]).unwrap();
        assert!(difference(&view, &copy).is_none());
    }
}
