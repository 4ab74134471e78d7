//! Optimizer states with their parameters by name.
//!
//! A `.pt` file has them by number, as `optimizer.state_dict()` returns them, and the names beside
//! (`param_names`), or in the order of the model. A distributed checkpoint has them by name.

use std::collections::HashMap;

use scai_checkpoint::load::with_param_names;
use scai_checkpoint::{Dict, Value};

/// What the names of the fields with the state of optimizers end in, and of those with their models.
const OPTIMIZER: &str = "optimizer_state_dict";
const MODEL: &str = "model_state_dict";

/// Which of two trees have to be compared by the names of parameters, since the other has names.
pub(crate) fn needed(a: &Value, b: &Value) -> (bool, bool) {
    let (Some(left), Some(right)) = (a.as_dict(), b.as_dict()) else { return (false, false) };
    let pairs = left
        .keys()
        .filter(|key| key.ends_with(OPTIMIZER))
        .filter_map(|key| Some((is_by_name(left.get(key)?)?, is_by_name(right.get(key)?)?)));
    let pairs: Vec<(bool, bool)> = pairs.collect();
    (pairs.contains(&(false, true)), pairs.contains(&(true, false)))
}

/// A tree with the parameters of its optimizers by name, as far as the names are known.
pub(crate) fn named(tree: &Value) -> Value {
    let Some(top) = tree.as_dict() else { return tree.clone() };
    let mut named = top.clone();
    for key in top.keys().filter(|key| key.ends_with(OPTIMIZER)) {
        let model = key.strip_suffix(OPTIMIZER).map(|start| format!("{start}{MODEL}"));
        let model = model.and_then(|model| top.get(&model)).unwrap_or(&Value::None);
        let state = top.get(key).filter(|state| is_by_name(state) == Some(false));
        if let Some(state) = state.and_then(|state| by_name(state, model)) {
            named.insert(key, state);
        }
    }
    Value::Dict(named)
}

/// Whether the parameters of an optimizer state are named; `None` if it is none, or has no parameters.
fn is_by_name(state: &Value) -> Option<bool> {
    let groups = state.as_dict()?.get("param_groups")?;
    let Value::List(groups) = groups.resolved() else { return None };
    let mut params =
        groups.iter().filter_map(|group| match group.as_dict()?.get("params")?.resolved() {
            Value::List(params) => params.first(),
            _ => None,
        });
    Some(params.next()?.as_str().is_some())
}

/// An optimizer state with names in place of numbers, as `get_optimizer_state_dict` returns it.
fn by_name(state: &Value, model: &Value) -> Option<Value> {
    let state = with_param_names(state.clone(), model).ok()?;
    let mut named = state.as_dict()?.clone();
    let mut names = HashMap::new();
    let Value::List(groups) = named.get("param_groups")?.resolved() else { return None };
    let mut new_groups = Vec::with_capacity(groups.len());
    for group in groups {
        let mut group: Dict = group.as_dict()?.clone();
        let of_group = group.remove("param_names")?;
        let (Value::List(params), Value::List(of_group)) =
            (group.get("params")?.resolved(), of_group.resolved())
        else {
            return None;
        };
        for (param, name) in params.iter().zip(of_group) {
            names.insert(param.as_int()?, name.as_str()?.to_owned());
        }
        let params = of_group.clone();
        group.insert("params", params);
        new_groups.push(Value::Dict(group));
    }
    let entries = named.get("state")?.as_dict()?.entries.iter().map(|(key, value)| {
        // A distributed checkpoint has all keys as text.
        let number = key.as_int().or_else(|| key.as_str()?.parse().ok())?;
        Some((names.get(&number)?.clone(), value.clone()))
    });
    let entries: Dict = entries.collect::<Option<_>>()?;
    named.insert("state", entries);
    named.insert("param_groups", new_groups);
    Some(Value::Dict(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(params: &[Value], keys: &[Value]) -> Value {
        let moments = |i: usize| Value::from(Dict::from_iter([("step", i as f64)]));
        let entries = keys.iter().enumerate().map(|(i, key)| (key.clone(), moments(i)));
        let group = Dict::from_iter([("lr", Value::from(0.5)), ("params", params.to_vec().into())]);
        let state = Dict { entries: entries.collect(), ..Dict::new() };
        let groups = Value::List(vec![group.into()]);
        Dict::from_iter([("state", Value::from(state)), ("param_groups", groups)]).into()
    }

    #[test]
    fn numbers_become_names_if_the_other_has_names() {
        let weight = scai_checkpoint::Tensor::from_vec(vec![1], vec![0.5_f32]).unwrap();
        let model = Dict::from_iter([("a", weight.clone()), ("b", weight)]);
        let tree = |state: Value| {
            let model = Value::from(model.clone());
            Value::from(Dict::from_iter([
                ("model_state_dict", model),
                ("optimizer_state_dict", state),
            ]))
        };
        let names = ["a", "b"].map(Value::from);
        let named_tree = tree(state(&names, &names));
        let numbers = [0, 1].map(Value::from);
        for keys in [numbers.clone(), ["0", "1"].map(Value::from)] {
            let numbered = tree(state(&numbers, &keys));
            assert_eq!(needed(&named_tree, &numbered), (false, true));
            assert_eq!(needed(&numbered, &named_tree), (true, false));
            assert_eq!(needed(&numbered, &numbered), (false, false));
            assert_eq!(named(&numbered), named_tree);
        }
        assert_eq!(named(&named_tree), named_tree);
    }
}
