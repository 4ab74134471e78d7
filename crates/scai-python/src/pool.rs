//! Memory for copies, used again by the next save: fresh memory costs more than the copying.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use scai_checkpoint::Result;
use scai_checkpoint::memory::zeroed;

use crate::sync::held;

/// Buffers between saves. Holds at most what one save needed.
#[derive(Debug, Clone, Default)]
#[pyclass(frozen)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// A buffer of this length, of whatever content: the smallest of the pool that is large enough.
    ///
    /// # Errors
    /// [`scai_checkpoint::Error::OutOfMemory`] where there is no memory for it.
    pub(crate) fn take(&self, len: usize) -> Result<Buffer> {
        let mut free = held(&self.0);
        let fitting = free.iter().enumerate().filter(|(_, bytes)| bytes.capacity() >= len);
        // One that is much too large waits for a tensor of its size.
        let best = fitting
            .min_by_key(|(_, bytes)| bytes.capacity())
            .filter(|(_, bytes)| bytes.capacity() / 2 <= len)
            .map(|(i, _)| i);
        let reused = best.map(|i| free.swap_remove(i));
        drop(free);
        let bytes = match reused {
            Some(mut bytes) => {
                bytes.resize(len, 0);
                bytes
            }
            // The system's memory is zero already.
            None => zeroed(len as u64, "copy a tensor")?.into_vec(),
        };
        Ok(Buffer { bytes, pool: self.clone() })
    }

    /// Drops what the save that has just taken its buffers had no use for, but for so many bytes that
    /// it may still need.
    pub(crate) fn trim(&self, needed: usize) {
        let mut left = needed;
        held(&self.0).retain(|bytes| match left.checked_sub(bytes.capacity()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
    }
}

#[pymethods]
impl Pool {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait for the next save.
    fn nbytes(&self) -> usize {
        held(&self.0).iter().map(Vec::capacity).sum()
    }
}

impl Buffer {
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        held(&self.pool.0).push(std::mem::take(&mut self.bytes));
    }
}
