//! The variables of a model as a state dict with the names of PyTorch, and back.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use candle_core::{Device, TensorId, Var};
use candle_nn::VarMap;
use scai_checkpoint::load::{LoadReport, MatchOptions, TensorSpec, match_state};
use scai_checkpoint::value::DictKind;
use scai_checkpoint::{Dict, Result, Tensor, Value};

use crate::dtype::checkpoint_dtype;
use crate::tensor::{from_checkpoint, of_candle, to_checkpoint};

/// What PyTorch's batch norm counts and candle's does not.
const COUNTER: &str = "num_batches_tracked";

/// The variables of a map by name, as `torch.nn.Module.state_dict()` gives them.
///
/// The tensors are copies: candle writes new values into the memory of a variable, so what is saved in
/// the background must not be that memory. They are in the order in which the variables were made.
/// Behind the running statistics of a batch norm comes its counter of batches, which PyTorch has and
/// candle does not, as 0.
///
/// Call it between two steps: a variable that another thread sets meanwhile has its old or its new value.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for an element type that a checkpoint cannot hold;
/// [`Error::Invalid`](crate::Error::Invalid) if a variable cannot be read from its device.
pub fn state_dict(vars: &VarMap) -> Result<Dict> {
    let vars = named_vars(vars);
    let names: HashSet<&str> = vars.iter().map(|(name, _)| name.as_str()).collect();
    let mut dict = Dict { kind: DictKind::Ordered, ..Dict::default() };
    for (name, var) in &vars {
        let copy = match var.device() {
            Device::Cpu => var.copy().map_err(|error| of_candle(name, &error))?,
            // It is copied when it comes to the CPU.
            _ => var.as_detached_tensor(),
        };
        dict.insert(name.as_str(), to_checkpoint(&copy, name)?);
        if let Some(counter) = counter_of(name).filter(|counter| !names.contains(counter.as_str()))
        {
            dict.insert(counter, Tensor::from_vec(Vec::new(), vec![0_i64])?);
        }
    }
    Ok(dict)
}

/// Sets the variables of a map to the values in a saved state dict, and reports what was loaded.
///
/// With [`Strictness::Strict`](scai_checkpoint::load::Strictness::Strict), the default, every name,
/// shape and element type must match. With `Partial`, what matches is loaded and the other variables
/// keep their values. The variables stay the same, so a model that was built from the map has the new
/// values. PyTorch's counters of batches are ignored, whether they are there or not.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::{VarBuilder, VarMap, linear, linear_no_bias};
/// use scai_checkpoint::load::{MatchOptions, Strictness};
///
/// let (saved, vars) = (VarMap::new(), VarMap::new());
/// linear_no_bias(2, 3, VarBuilder::from_varmap(&saved, DType::F32, &Device::Cpu))?;
/// let model = linear(2, 3, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
///
/// let state = scai_candle::state_dict(&saved)?;
/// let partial = MatchOptions::default().strictness(Strictness::Partial);
/// let report = scai_candle::load_state_dict(&vars, &state.into(), &partial)?;
/// assert_eq!(report.loaded, ["weight"]);
/// assert_eq!(report.missing, ["bias"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) with the whole report if a strict load does not fit;
/// [`Error::Damaged`](crate::Error::Damaged) if the bytes of a tensor are not those that were saved. On
/// failure no variable has changed.
pub fn load_state_dict(vars: &VarMap, saved: &Value, options: &MatchOptions) -> Result<LoadReport> {
    let vars = named_vars(vars);
    let mut wanted: Vec<TensorSpec> = Vec::with_capacity(vars.len());
    for (name, var) in &vars {
        wanted.push(spec(name, var)?);
    }
    let matched = match_state(&without_counters(saved, &wanted, options), &wanted, options)?;
    let by_name: HashMap<&str, &Var> =
        vars.iter().map(|(name, var)| (name.as_str(), var)).collect();
    let mut values = Vec::new();
    for (name, tensor) in &matched.tensors {
        let Some(var) = by_name.get(name.as_str()) else { continue };
        values.push((name, *var, from_checkpoint(tensor, var.dtype(), var.device(), name)?));
    }
    // Everything that can fail has been done: shapes, types and devices are those of the variables.
    for (name, var, value) in values {
        var.set(&value).map_err(|error| of_candle(name, &error))?;
    }
    Ok(matched.report)
}

/// The variables of a map in the order in which they were made, which the map itself does not keep.
/// Where a model is built field by field it is the order of `torch.nn.Module.named_parameters()`.
pub(crate) fn named_vars(vars: &VarMap) -> Vec<(String, Var)> {
    let vars = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut vars: Vec<(String, Var)> =
        vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    vars.sort_by_cached_key(|(name, var)| (number(var.id()), name.clone()));
    vars
}

/// The number of a tensor. Candle counts them and shows the number only to people: `TensorId(7)`.
fn number(id: TensorId) -> Option<u64> {
    let shown = format!("{id:?}");
    shown.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

/// What a state dict must have for a variable.
pub(crate) fn spec(name: &str, var: &Var) -> Result<TensorSpec> {
    let dtype = checkpoint_dtype(var.dtype(), name)?;
    Ok(TensorSpec { name: name.to_owned(), dtype, shape: var.dims().to_vec() })
}

/// Whether a variable is a running statistic of batch norm, by its name.
pub(crate) fn is_running_statistic(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"))
}

/// The counter that PyTorch has behind the variable, if that is a running variance.
fn counter_of(name: &str) -> Option<String> {
    let parent = name.strip_suffix("running_var")?;
    (parent.is_empty() || parent.ends_with('.')).then(|| format!("{parent}{COUNTER}"))
}

/// A saved state dict without the counters of batch norms, unless the model has variables for them.
fn without_counters(saved: &Value, model: &[TensorSpec], options: &MatchOptions) -> Value {
    let mut saved = saved.resolved().clone();
    let names: HashSet<&str> = model.iter().map(|spec| spec.name.as_str()).collect();
    if let Value::Dict(dict) = &mut saved {
        dict.entries.retain(|(name, _)| {
            let name = options.rename(name.as_str().unwrap_or_default());
            name.rsplit('.').next() != Some(COUNTER) || names.contains(name.as_str())
        });
    }
    saved
}
