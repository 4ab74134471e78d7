//! Memory in which bytes lie as direct I/O wants them, and how much of it there is.

use crate::error::Result;
use crate::memory::zeroed;
use crate::store::WriteAt;
use crate::tensor::PIECE;

/// Bytes that writing a file may hold besides the state, by default.
pub(crate) const MEMORY: u64 = 64 << 20;

/// The length of a buffer: a piece, the header of a record and what alignment leaves out. Buffers
/// that grew would leave holes in memory, as large as themselves.
const LEN: u64 = PIECE + (16 << 10);

/// How many threads write `tasks` tasks of about [`PIECE`] bytes, if `threads` may work at once and
/// hold `memory` bytes.
pub(super) fn writers(threads: usize, tasks: usize, memory: u64, file: &dyn WriteAt) -> usize {
    // With direct I/O, half of them wait for the device while the others hash.
    let wanted = if file.alignment() > 1 { threads.saturating_mul(2) } else { threads };
    // Half of it is left for what is not in buffers: offsets, digests, the threads themselves.
    let affordable = usize::try_from(memory / 2 / PIECE).unwrap_or(usize::MAX).max(1);
    wanted.min(tasks).min(affordable)
}

/// A buffer that one thread reuses.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Its length once it is needed, unless more is asked for.
    least: usize,
}

impl Buffer {
    /// A buffer for the parts of a file of `len` bytes. Takes memory when it is first used.
    pub(super) fn for_file(len: u64) -> Self {
        Self { bytes: Vec::new(), least: len.min(LEN) as usize }
    }

    /// `len` bytes of any content, the first at an address that agrees with `offset` modulo
    /// `alignment`, a power of two.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no memory for them.
    pub(super) fn at(&mut self, offset: u64, len: usize, alignment: usize) -> Result<&mut [u8]> {
        let needed = len + alignment - 1;
        if self.bytes.len() < needed {
            // Otherwise both would be in memory at once.
            self.bytes = Vec::new();
            self.bytes = zeroed(needed.max(self.least) as u64, "write")?.into_vec();
        }
        let start = (offset as usize).wrapping_sub(self.bytes.as_ptr().addr()) % alignment;
        Ok(&mut self.bytes[start..start + len])
    }
}

/// Whether the address of `bytes` agrees with `offset` modulo `alignment`.
pub(super) fn agrees(bytes: &[u8], offset: u64, alignment: usize) -> bool {
    (offset as usize).wrapping_sub(bytes.as_ptr().addr()).is_multiple_of(alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_agrees_with_every_offset() {
        let mut buffer = Buffer::for_file(1000);
        for len in [0, 1, 5000, 300] {
            for offset in [0, 1, 64, 4095, 4096, 123_456_789] {
                for alignment in [1, 512, 4096] {
                    let bytes = buffer.at(offset, len, alignment).unwrap();
                    assert_eq!(bytes.len(), len);
                    assert!(agrees(bytes, offset, alignment));
                }
            }
        }
    }
}
