//! Memory for copies, used again by the next save: fresh memory costs more than the copying.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use scai_checkpoint::Result;
use scai_checkpoint::memory::zeroed;

use crate::sync::held;

/// Buffers between saves. Holds at most what one save needed.
#[derive(Debug, Clone, Default)]
#[pyclass(frozen)]
pub(crate) struct Pool(Arc<Mutex<Free>>);

/// Buffers by their capacities.
type Free = BTreeMap<usize, Vec<Vec<u8>>>;

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
        // One that is much too large waits for a tensor of its size.
        let most = len.saturating_mul(2).saturating_add(1);
        let reused = free.range_mut(len..=most).find_map(|(_, buffers)| buffers.pop());
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
        held(&self.0).retain(|&capacity, buffers| {
            let kept = left.checked_div(capacity).unwrap_or(buffers.len()).min(buffers.len());
            buffers.truncate(kept);
            left -= kept * capacity;
            kept > 0
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
        held(&self.0).iter().map(|(capacity, buffers)| capacity * buffers.len()).sum()
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
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() == 0 {
            return;
        }
        held(&self.pool.0).entry(bytes.capacity()).or_default().push(bytes);
    }
}
