//! Regions of a tensor: whether they cover it, and where their bytes are in it.

use super::metadata::Chunk;

/// Why regions do not make up a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A region has another number of dimensions, or ends outside the tensor.
    Outside(usize),
    /// Two regions have elements in common.
    Overlap(usize, usize),
    /// Elements of the tensor are in no region.
    Hole,
    /// The tensor has more elements than can be counted.
    TooLarge,
}

/// The chunks that make up a tensor of this shape, without those that are empty or the same as one before;
/// every element is in exactly one of them.
pub(super) fn cover<'a>(shape: &[u64], chunks: &'a [Chunk]) -> Result<Vec<&'a Chunk>, Flaw> {
    let elements = product(shape).ok_or(Flaw::TooLarge)?;
    let mut found: Vec<(usize, &Chunk)> = Vec::with_capacity(chunks.len());
    for (i, chunk) in chunks.iter().enumerate() {
        let is_inside = |((&offset, &size), &len): ((&u64, &u64), &u64)| {
            offset.checked_add(size).is_some_and(|end| end <= len)
        };
        let dims = chunk.offsets.iter().zip(&chunk.sizes).zip(shape);
        if chunk.offsets.len() != shape.len()
            || chunk.sizes.len() != shape.len()
            || !dims.into_iter().all(is_inside)
        {
            return Err(Flaw::Outside(i));
        }
        if !chunk.sizes.contains(&0) {
            found.push((i, chunk));
        }
    }
    found.sort_by(|(i, a), (j, b)| (&a.offsets, &a.sizes, i).cmp(&(&b.offsets, &b.sizes, j)));
    found.dedup_by(|(_, a), (_, b)| a.offsets == b.offsets && a.sizes == b.sizes);

    // By their first dimension; only those that have not ended can overlap.
    let mut open: Vec<(usize, &Chunk)> = Vec::new();
    let mut covered = 0_u64;
    for &(i, chunk) in &found {
        let begin = chunk.offsets.first().copied().unwrap_or_default();
        open.retain(|(_, other)| end(other) > begin);
        if let Some((j, _)) = open.iter().find(|(_, other)| overlap(chunk, other)) {
            return Err(Flaw::Overlap(i.min(*j), i.max(*j)));
        }
        open.push((i, chunk));
        // None is larger than the whole, and none overlaps another.
        covered = covered.saturating_add(product(&chunk.sizes).unwrap_or(u64::MAX));
    }
    if covered == elements {
        Ok(found.into_iter().map(|(_, chunk)| chunk).collect())
    } else {
        Err(Flaw::Hole)
    }
}

/// The number of elements.
fn product(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_u64, |product, &len| product.checked_mul(len))
}

/// Where a region ends in the first dimension; a single number is one long.
fn end(chunk: &Chunk) -> u64 {
    match (chunk.offsets.first(), chunk.sizes.first()) {
        (Some(offset), Some(size)) => offset + size,
        _ => 1,
    }
}

fn overlap(a: &Chunk, b: &Chunk) -> bool {
    let dims = a.offsets.iter().zip(&a.sizes).zip(b.offsets.iter().zip(&b.sizes));
    dims.into_iter().all(|((&a, &len_a), (&b, &len_b))| a < b + len_b && b < a + len_a)
}

/// A region as runs of bytes of the whole tensor in row-major order. The region itself, in row-major order,
/// is the runs one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runs {
    /// Where the first one begins.
    pub(super) begin: u64,
    /// The length of each.
    pub(super) len: u64,
    /// How many there are.
    pub(super) count: u64,
    /// Numbers of runs along the outer dimensions, and bytes between neighbours.
    outer: Box<[(u64, u64)]>,
}

impl Runs {
    /// The runs of a region of a tensor whose elements take `size` bytes. The region is inside the tensor
    /// and not empty.
    pub(super) fn new(shape: &[u64], chunk: &Chunk, size: u64) -> Self {
        let mut strides = vec![size; shape.len()];
        for dim in (1..shape.len()).rev() {
            strides[dim - 1] = strides[dim] * shape[dim];
        }
        // The dimensions that are whole, from the last one on.
        let is_whole = |dim: &usize| chunk.sizes[*dim] == shape[*dim];
        let whole = (0..shape.len()).rev().take_while(is_whole).count();
        let inner = shape.len() - whole;
        let begin =
            chunk.offsets.iter().zip(&strides).map(|(offset, stride)| offset * stride).sum();
        let Some(last) = inner.checked_sub(1) else {
            let len = shape.iter().product::<u64>() * size;
            return Self { begin, len, count: 1, outer: Box::default() };
        };
        let outer = (0..last).map(|dim| (chunk.sizes[dim], strides[dim]));
        let outer: Box<[_]> = outer.filter(|(count, _)| *count > 1).collect();
        let count = outer.iter().map(|(count, _)| count).product();
        Self { begin, len: chunk.sizes[last] * strides[last], count, outer }
    }

    /// Where a run begins in the whole tensor.
    pub(super) fn start(&self, mut run: u64) -> u64 {
        let mut start = self.begin;
        for (count, stride) in self.outer.iter().rev() {
            start += run % count * stride;
            run /= count;
        }
        start
    }

    /// The runs that have bytes in a range of the whole tensor.
    pub(super) fn within(&self, range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
        if self.begin >= range.end || self.start(self.count - 1) + self.len <= range.start {
            return 0..0;
        }
        let first = self.first(|start| start + self.len > range.start);
        let end = self.first(|start| start >= range.end);
        first..end
    }

    /// The first run whose beginning is far enough, as are all that follow.
    fn first(&self, is_far: impl Fn(u64) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_far(self.start(middle)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::Location;
    use super::*;

    fn chunk(offsets: &[u64], sizes: &[u64]) -> Chunk {
        let at = Location { file: 0, offset: 0, len: 0 };
        Chunk { offsets: offsets.to_vec(), sizes: sizes.to_vec(), at }
    }

    fn flaw(shape: &[u64], chunks: &[Chunk]) -> Option<Flaw> {
        cover(shape, chunks).err()
    }

    #[test]
    fn regions_that_leave_or_share_elements_are_found() {
        let halves = [chunk(&[0, 0], &[2, 3]), chunk(&[2, 0], &[1, 3])];
        assert_eq!(flaw(&[3, 3], &halves), None);
        assert_eq!(flaw(&[4, 3], &halves), Some(Flaw::Hole));
        assert_eq!(flaw(&[2, 3], &halves), Some(Flaw::Outside(1)));
        assert_eq!(flaw(&[3], &halves), Some(Flaw::Outside(0)));
        let crossed = [chunk(&[0, 0], &[2, 2]), chunk(&[1, 1], &[1, 1])];
        assert_eq!(flaw(&[2, 2], &crossed), Some(Flaw::Overlap(0, 1)));
        // As many elements as there are, but not the same.
        let twice = [chunk(&[0, 0], &[2, 1]), chunk(&[1, 0], &[1, 1]), chunk(&[0, 1], &[1, 1])];
        assert_eq!(flaw(&[2, 2], &twice), Some(Flaw::Overlap(0, 1)));
        assert_eq!(flaw(&[u64::MAX, 2], &[]), Some(Flaw::TooLarge));
    }

    #[test]
    fn equal_and_empty_regions_count_once_and_not_at_all() {
        let replicated = [chunk(&[0], &[4]), chunk(&[4], &[0]), chunk(&[0], &[4])];
        assert_eq!(cover(&[4], &replicated).unwrap().len(), 1);
        assert_eq!(cover(&[], &[chunk(&[], &[]), chunk(&[], &[])]).unwrap().len(), 1);
        assert_eq!(flaw(&[], &[]), Some(Flaw::Hole));
        assert_eq!(cover(&[0, 7], &[]).unwrap().len(), 0);
    }

    #[test]
    fn a_region_of_whole_rows_is_one_run_and_one_of_columns_has_one_a_row() {
        let rows = Runs::new(&[6, 2, 3], &chunk(&[2, 0, 0], &[3, 2, 3]), 4);
        assert_eq!((rows.begin, rows.len, rows.count), (48, 72, 1));
        let columns = Runs::new(&[4, 6], &chunk(&[1, 2], &[2, 3]), 1);
        assert_eq!((columns.begin, columns.len, columns.count), (8, 3, 2));
        assert_eq!(columns.within(&(0..8)), 0..0);
        assert_eq!(columns.within(&(10..12)), 0..1);
        assert_eq!(columns.within(&(11..15)), 1..2);
        assert_eq!(columns.within(&(10..15)), 0..2);
        let scalar = Runs::new(&[], &chunk(&[], &[]), 8);
        assert_eq!((scalar.begin, scalar.len, scalar.count), (0, 8, 1));
    }
}
