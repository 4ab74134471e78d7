//! The names of the parameters in a saved optimizer state.

use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::value::{Dict, Value};

/// The names of the parameters of a saved optimizer, by their number.
///
/// PyTorch writes them (`param_names`) if the optimizer was made with `model.named_parameters()`;
/// [`with_param_names`] adds them to any other state.
///
/// # Errors
/// [`Error::Invalid`] if it is not the state of an optimizer, or has no names.
pub fn param_names(optimizer: &Value) -> Result<Vec<String>> {
    match (names_in(optimizer), groups_of(optimizer)) {
        (Some(names), _) => Ok(names),
        (None, Some(_)) => Err(Error::invalid(
            "the optimizer state has no `param_names`, so it is not known which parameter is \
             which; add them with `with_param_names`",
        )),
        (None, None) => Err(not_a_state(optimizer)),
    }
}

/// An optimizer state of PyTorch with the names of its parameters, as in `model`, the state dict
/// that was saved with it.
///
/// `torch.optim.AdamW(model.parameters())` numbers the parameters in the order of the model. A
/// state that has names already is returned as it is.
///
/// # Errors
/// [`Error::Invalid`] if the state has several groups of parameters, whose order is not that of the
/// model, or another number of parameters than the model.
pub fn with_param_names(mut state: Value, model: &Value) -> Result<Value> {
    if names_in(&state).is_some() {
        return Ok(state);
    }
    let names = parameters_of(model);
    let groups = match state.resolved_mut() {
        Value::Dict(dict) => dict.get_mut("param_groups"),
        _ => None,
    };
    let Some(Value::List(groups)) = groups.map(Value::resolved_mut) else {
        return Err(not_a_state(&state));
    };
    let [group] = groups.as_mut_slice() else {
        return Err(Error::invalid(format!(
            "the optimizer state has {} groups of parameters and no names, so it is not known \
             which parameter is which; save it from an optimizer that was made with \
             `model.named_parameters()`",
            groups.len()
        )));
    };
    let Value::Dict(group) = group.resolved_mut() else {
        return Err(Error::invalid("`param_groups` does not hold a dict"));
    };
    let count = match group.get("params").map(Value::resolved) {
        Some(Value::List(params)) => params.len(),
        _ => names.len(),
    };
    if count != names.len() {
        return Err(Error::invalid(format!(
            "the optimizer has {count} parameters and the model saved with it {}, so it is not \
             known which parameter is which; save it from an optimizer that was made with \
             `model.named_parameters()`",
            names.len()
        )));
    }
    group.insert("param_names", names.into_iter().map(Value::from).collect::<Vec<_>>());
    Ok(state)
}

/// The names in a state that has them.
fn names_in(optimizer: &Value) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for group in groups_of(optimizer)? {
        let group = group.as_dict()?.get("param_names")?;
        let Value::List(group) = group.resolved() else { return None };
        for name in group {
            names.push(name.as_str()?.to_owned());
        }
    }
    Some(names)
}

fn groups_of(optimizer: &Value) -> Option<&[Value]> {
    match optimizer.as_dict()?.get("param_groups")?.resolved() {
        Value::List(groups) => Some(groups),
        _ => None,
    }
}

fn not_a_state(value: &Value) -> Error {
    let keys: Vec<&str> = value.as_dict().into_iter().flat_map(Dict::keys).take(3).collect();
    let found = match keys.as_slice() {
        [] => format!("a {}", value.type_name()),
        keys => format!("a dict with the keys `{}`, …", keys.join("`, `")),
    };
    Error::invalid(format!(
        "an optimizer state must be a dict with `state` and `param_groups`, got {found}"
    ))
}

/// The names in a saved state dict that are parameters, in order: not the buffers of batch norm and
/// nothing but floating-point numbers, which alone can be trained.
fn parameters_of(model: &Value) -> Vec<String> {
    const BUFFERS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];
    let is_parameter = |name: &str, tensor: &Tensor| {
        let last = name.rsplit('.').next().unwrap_or(name);
        tensor.dtype().is_float() && !BUFFERS.contains(&last)
    };
    let entries = model.as_dict().into_iter().flat_map(|dict| &dict.entries);
    entries
        .filter_map(|(name, value)| Some((name.as_str()?, value.as_tensor()?)))
        .filter(|(name, tensor)| is_parameter(name, tensor))
        .map(|(name, _)| name.to_owned())
        .collect()
}
