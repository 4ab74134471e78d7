//! Checksums: a digest for each chunk, and the zip's own CRC-32, computed together.

use twox_hash::XxHash3_128;

use crate::CHUNK_SIZE;

/// The number of chunks that `size` bytes have.
pub(super) fn chunks(size: u64) -> u64 {
    size.div_ceil(CHUNK_SIZE as u64)
}

/// The digests of all chunks of `bytes`, which begin at a chunk.
pub(super) fn digests(bytes: &[u8]) -> Vec<u128> {
    bytes.chunks(CHUNK_SIZE).map(XxHash3_128::oneshot).collect()
}

/// The CRC-32 of parts that were computed separately, given in order.
pub(super) fn combine_crc<'a>(parts: impl IntoIterator<Item = &'a crc32fast::Hasher>) -> u32 {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().cloned().unwrap_or_default();
    parts.for_each(|part| whole.combine(part));
    whole.finalize()
}

/// One digest of all chunks' digests.
pub(super) fn fold(digests: &[u128]) -> u128 {
    // Little-endian, like every machine that this crate builds for.
    XxHash3_128::oneshot(bytemuck::cast_slice(digests))
}
