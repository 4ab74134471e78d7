//! What a saved state of AdamW holds.

use std::collections::{HashMap, HashSet};

use candle_nn::ParamsAdamW;
use scai_checkpoint::load::{MatchOptions, param_names};
use scai_checkpoint::{Dict, Error, Result, Value};

/// What a saved state has for each parameter.
pub(crate) struct SavedState {
    /// The averages of the gradients and of their squares, by the saved names: `match_state` renames.
    pub(crate) first: Dict,
    pub(crate) second: Dict,
    /// Steps of the parameters that have moments, by the new names.
    pub(crate) steps: HashMap<String, usize>,
    /// Parameters without moments, by the new names.
    pub(crate) untrained: HashSet<String>,
}

impl SavedState {
    /// # Errors
    /// If it is not the state of AdamW, or has no names.
    pub(crate) fn read(saved: &Value, options: &MatchOptions) -> Result<Self> {
        let names = param_names(saved)?;
        let state = saved.lookup("state").and_then(Value::as_dict);
        let entries: HashMap<i64, &Value> = state
            .into_iter()
            .flat_map(|state| &state.entries)
            .filter_map(|(index, entry)| Some((index.as_int()?, entry)))
            .collect();
        let mut found = Self {
            first: Dict::new(),
            second: Dict::new(),
            steps: HashMap::new(),
            untrained: HashSet::new(),
        };
        for (index, name) in (0_i64..).zip(names) {
            let Some(entry) = entries.get(&index) else {
                found.untrained.insert(options.rename(&name));
                continue;
            };
            let lacks = |key: &str| {
                Error::Invalid(format!(
                    "the optimizer state of `{name}` has no `{key}`: it is not the state of AdamW"
                ))
            };
            let field = |key: &str| entry.as_dict()?.get(key);
            let moment =
                |key: &str| field(key).and_then(Value::as_tensor).ok_or_else(|| lacks(key));
            let (first, second) = (moment("exp_avg")?.clone(), moment("exp_avg_sq")?.clone());
            let steps = field("step").map(Value::whole_number).transpose()?.flatten();
            let steps = steps.and_then(|steps| usize::try_from(steps).ok());
            found.steps.insert(options.rename(&name), steps.ok_or_else(|| lacks("step"))?);
            found.first.insert(name.as_str(), first);
            found.second.insert(name.as_str(), second);
        }
        Ok(found)
    }
}

/// The hyperparameters in a saved state.
///
/// # Errors
/// If candle's AdamW cannot have them.
pub(crate) fn saved_params(saved: &Value) -> Result<ParamsAdamW> {
    let groups = saved.lookup("param_groups").map(Value::children).unwrap_or_default();
    let mut found: Option<[f64; 5]> = None;
    for (_, group) in groups {
        let group = group_params(group)?;
        if found.replace(group).is_some_and(|before| before != group) {
            return Err(cannot_have("groups with different hyperparameters"));
        }
    }
    let [lr, beta1, beta2, eps, weight_decay] =
        found.ok_or_else(|| Error::Invalid("the optimizer state has no groups".to_owned()))?;
    Ok(ParamsAdamW { lr, beta1, beta2, eps, weight_decay })
}

fn group_params(group: &Value) -> Result<[f64; 5]> {
    let number = |path: &str| {
        let value = group.lookup(path).and_then(number);
        value.ok_or_else(|| {
            Error::Invalid(format!(
                "`param_groups` of the optimizer state has no `{path}`: it is not the state of AdamW"
            ))
        })
    };
    let is = |flag: &str, value: bool| group.lookup(flag) == Some(&Value::Bool(value));
    let weight_decay = number("weight_decay")?;
    for (is_other, what) in [
        (is("amsgrad", true), "`amsgrad`"),
        (is("maximize", true), "`maximize`"),
        (is("decoupled_weight_decay", false) && weight_decay != 0.0, "the weight decay of Adam"),
    ] {
        if is_other {
            return Err(cannot_have(what));
        }
    }
    Ok([number("lr")?, number("betas.0")?, number("betas.1")?, number("eps")?, weight_decay])
}

fn cannot_have(what: &str) -> Error {
    Error::Invalid(format!(
        "the optimizer state was saved with {what}, which candle's AdamW does not have; load \
         partially to take its moments alone"
    ))
}

/// A number, which PyTorch may keep in a tensor.
fn number(value: &Value) -> Option<f64> {
    let Some(tensor) = value.as_tensor() else { return value.as_float() };
    let single =
        tensor.to_vec::<f32>().ok().map(|elements| elements.into_iter().map(f64::from).collect());
    let elements: Vec<f64> = single.or_else(|| tensor.to_vec::<f64>().ok())?;
    elements.first().copied()
}
