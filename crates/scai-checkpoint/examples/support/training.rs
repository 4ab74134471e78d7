//! The state of a training: many small tensors, deeply nested.

use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{Checkpoint, Dict, Value};

use crate::states::{random, vector};

/// A model of `parameters` parameters of `floats` elements with the state of Adam, named and nested
/// as PyTorch does: four tensors a parameter.
pub(crate) fn state(parameters: usize, floats: usize) -> Checkpoint {
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
