//! States to measure with. Equal arguments give equal bytes, which no disk compresses.

use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{Checkpoint, DType, Dict, Tensor};

/// `bytes` random bytes. They lie in memory as a framework holds them: not at the start of a page.
pub(crate) fn random(seed: usize, bytes: usize) -> Vec<u64> {
    let mut state = seed as u64 + 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).take(bytes / 8).collect()
}

/// A model of `tensors` tensors, each over a storage of its own, and nothing else.
pub(crate) fn model(tensors: usize, storage: impl Fn(usize) -> Storage) -> Checkpoint {
    let tensor = |i| (format!("layer.{i}.weight"), vector(storage(i)));
    let model: Dict = (0..tensors).map(tensor).collect();
    Checkpoint::new(1, model, Dict::new())
}

/// A tensor of all floats of a storage.
pub(crate) fn vector(storage: Storage) -> Tensor {
    let floats = storage.len() as usize / 4;
    Tensor::contiguous(DType::Float32, vec![floats], storage).unwrap()
}
