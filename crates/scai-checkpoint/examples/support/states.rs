//! States to measure with. Equal arguments give equal bytes, which no disk compresses.

use scai_checkpoint::{Checkpoint, DType, Dict, Storage, Tensor, Value};

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

/// A model of `parameters` parameters of `floats` elements with the state of Adam, named and nested
/// as PyTorch does: four tensors a parameter.
pub(crate) fn training(parameters: usize, floats: usize) -> Checkpoint {
    let tensor = |i| vector(Storage::from_vec(random(i, 4 * floats)));
    let name = |i| format!("backbone.blocks.{}.conv{}.weight", i / 8, i % 8);
    let model: Dict = (0..parameters).map(|i| (name(i), tensor(i))).collect();
    let moments = |i: usize| {
        let mut state = Dict::new();
        state.insert("step", vector(Storage::from_vec(vec![100.0_f32])));
        state.insert("exp_avg", tensor(parameters + i));
        state.insert("exp_avg_sq", tensor(2 * parameters + i));
        (i.to_string(), state)
    };
    let mut group = Dict::new();
    group.insert("lr", 1e-3);
    group.insert("betas", Value::Tuple(vec![0.9.into(), 0.999.into()]));
    group.insert("params", Value::List((0..parameters as i64).map(Value::Int).collect()));
    let mut optimizer = Dict::new();
    optimizer.insert("state", (0..parameters).map(moments).collect::<Dict>());
    optimizer.insert("param_groups", Value::List(vec![group.into()]));
    Checkpoint::new(100, model, optimizer)
}

/// A tensor of all floats of a storage.
fn vector(storage: Storage) -> Tensor {
    let floats = storage.len() as usize / 4;
    Tensor::contiguous(DType::Float32, vec![floats], storage).unwrap()
}
