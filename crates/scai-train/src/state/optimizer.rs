//! Adam with decoupled weight decay, its state kept by the names of the parameters.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{
    AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer as _,
};
use burn::tensor::{Device, Tensor as BurnTensor};
use scai_checkpoint::load::{LoadReport, MatchOptions, Strictness, TensorSpec, transfer_optimizer};
use scai_checkpoint::{Dict, Tensor, Value};

use super::module::{Path, Role, Spec, loaded, shared};
use crate::error::{Error, Result};

const BETAS: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

/// Adam with decoupled weight decay.
///
/// Source: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019. Its arithmetic is
/// burn's; here is what burn keeps to itself: the moments, by the name of their parameter. Cloning
/// shares them.
#[derive(Clone)]
pub struct Adam {
    rule: AdamW,
    weight_decay: f64,
    /// By name; a parameter that has not been trained yet has none. Flat, since Adam looks at each
    /// element alone.
    moments: BTreeMap<String, AdamWState<1>>,
}

impl std::fmt::Debug for Adam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adam").field("parameters", &self.moments.len()).finish_non_exhaustive()
    }
}

impl Adam {
    /// An optimizer without any state yet.
    pub fn new(weight_decay: f64) -> Self {
        let rule = AdamWConfig::new()
            .with_beta_1(BETAS.0)
            .with_beta_2(BETAS.1)
            .with_epsilon(EPSILON)
            .with_weight_decay(weight_decay as f32)
            .build();
        Self { rule, weight_decay, moments: BTreeMap::new() }
    }

    /// Changes the parameters of `model` by their gradients.
    #[must_use]
    pub fn step<M: Module>(&mut self, model: M, gradients: GradientsParams, rate: f64) -> M {
        struct Step<'a> {
            adam: &'a mut Adam,
            gradients: GradientsParams,
            rate: f64,
            path: Path,
        }
        impl ModuleMapper for Step<'_> {
            fn map_float<const D: usize>(
                &mut self,
                param: Param<BurnTensor<D>>,
            ) -> Param<BurnTensor<D>> {
                let (id, tensor, mapper) = param.consume();
                let Some(gradient) = self.gradients.remove::<D>(id) else {
                    return Param::from_mapped_value(id, tensor, mapper);
                };
                let shape = tensor.dims();
                let name = self.path.spec(shape.to_vec()).name;
                let state = self.adam.moments.remove(&name);
                let flat = [tensor.shape().num_elements()];
                let (updated, state) = self.adam.rule.step(
                    self.rate,
                    tensor.inner().reshape(flat),
                    gradient.reshape(flat),
                    state,
                );
                self.adam.moments.extend(state.map(|state| (name, state)));
                let updated = BurnTensor::from_inner(updated.reshape(shape)).require_grad();
                Param::from_mapped_value(id, updated, mapper)
            }
            fn enter_module(&mut self, name: &str, container: &str) {
                self.path.enter(name, container);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
        }
        model.map(&mut Step { adam: self, gradients, rate, path: Path::default() })
    }

    /// The state as `torch.optim.AdamW.state_dict()` gives it, for a model with these tensors.
    ///
    /// The parameters' names stand in `param_names`, as PyTorch keeps them for an optimizer made
    /// from named parameters.
    pub(crate) fn state_dict(&self, specs: &[Spec], rate: f64) -> Result<Dict> {
        let parameters = || specs.iter().filter(|spec| spec.role == Role::Parameter);
        let mut state = Dict::new();
        for (index, spec) in parameters().enumerate() {
            let Some(AdamWState { momentum }) = self.moments.get(&spec.name) else { continue };
            let step = Tensor::from_vec(Vec::new(), vec![momentum.time as f32])?;
            let moment = |flat: &BurnTensor<1>| as_saved(flat.clone(), spec);
            let entry: Dict = [
                ("step", step),
                ("exp_avg", moment(&momentum.moment_1)?),
                ("exp_avg_sq", moment(&momentum.moment_2)?),
            ]
            .into_iter()
            .collect();
            state.entries.push((Value::Int(index as i64), entry.into()));
        }
        let mut group = Dict::new();
        group.insert("lr", rate);
        group.insert("betas", Value::Tuple(vec![decimal(BETAS.0), decimal(BETAS.1)]));
        group.insert("eps", decimal(EPSILON));
        group.insert("weight_decay", self.weight_decay);
        for (flag, value) in [
            ("amsgrad", Value::Bool(false)),
            ("maximize", Value::Bool(false)),
            ("foreach", Value::None),
            ("capturable", Value::Bool(false)),
            ("differentiable", Value::Bool(false)),
            ("fused", Value::None),
            ("decoupled_weight_decay", Value::Bool(true)),
        ] {
            group.insert(flag, value);
        }
        let names = parameters().map(|spec| Value::from(spec.name.as_str()));
        let indices = (0..parameters().count()).map(|index| Value::Int(index as i64));
        group.insert("params", indices.collect::<Vec<_>>());
        group.insert("param_names", names.collect::<Vec<_>>());
        let mut dict = Dict::new();
        dict.insert("state", state);
        dict.insert("param_groups", vec![group.into()]);
        Ok(dict)
    }

    /// The optimizer with the moments of a saved state, for a model with these tensors.
    ///
    /// The saved parameters are known by the names in `param_names`. Where there are none, as when
    /// PyTorch's optimizer was made from bare parameters, they are those of `model`, the saved
    /// state dict of the model, in its order. An empty dict is an optimizer without moments.
    ///
    /// # Errors
    /// Where the saved state is none of Adam. A strict match that fails: the report says what
    /// does not fit. The optimizer itself is not changed.
    pub(crate) fn restored(
        &self,
        saved: &Value,
        model: &Value,
        specs: &[Spec],
        options: &MatchOptions,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        if saved.as_dict().is_some_and(Dict::is_empty) {
            return Ok((Self::new(self.weight_decay), LoadReport::default()));
        }
        let parameters = || specs.iter().filter(|spec| spec.role == Role::Parameter);
        let wanted: Vec<TensorSpec> = parameters()
            .map(|Spec { name, shape, .. }| TensorSpec {
                name: name.clone(),
                dtype: scai_checkpoint::DType::Float32,
                shape: shape.clone(),
            })
            .collect();
        let saved_names = match saved_names(saved) {
            Some(names) => names,
            None => parameters_of(model),
        };
        let fresh = Value::Dict(Self::new(self.weight_decay).state_dict(specs, 0.0)?);
        let (moved, report) = transfer_optimizer(saved, &saved_names, &fresh, &wanted, options)?;
        let untrained = saved_state(saved).is_none_or(Dict::is_empty);
        let complete = report.missing.is_empty()
            && report.unexpected.is_empty()
            && report.mismatched.is_empty();
        if options.strictness == Strictness::Strict && !complete && !untrained {
            return Err(scai_checkpoint::Error::mismatch(report).into());
        }
        let by_index: HashMap<i64, &Value> = saved_state(&moved)
            .into_iter()
            .flat_map(|state| &state.entries)
            .filter_map(|(index, entry)| Some((index.as_int()?, entry)))
            .collect();
        let mut restored = Self::new(self.weight_decay);
        for (index, spec) in parameters().enumerate() {
            let Some(entry) = by_index.get(&(index as i64)) else { continue };
            restored.moments.insert(spec.name.clone(), state_from(entry, spec, device)?);
        }
        Ok((restored, report))
    }
}

/// A number of single precision as a person would write it: 0.9, not 0.8999999762.
fn decimal(number: f32) -> Value {
    Value::Float(number.to_string().parse().unwrap_or(f64::from(number)))
}

/// A flat moment in the shape and layout in which its parameter is saved.
fn as_saved(flat: BurnTensor<1>, spec: &Spec) -> Result<Tensor> {
    match (spec.layout, spec.shape.as_slice()) {
        (super::module::Layout::Transposed, &[rows, columns]) => {
            shared(flat.reshape([columns, rows]), spec)
        }
        _ => shared(flat, spec),
    }
}

fn state_from(entry: &Value, spec: &Spec, device: &Device) -> Result<AdamWState<1>> {
    let tensor = |key: &str| {
        let tensor = entry.as_dict().and_then(|entry| entry.get(key)?.as_tensor());
        tensor.ok_or_else(|| {
            Error::State(format!("the optimizer's state of `{}` has no tensor `{key}`", spec.name))
        })
    };
    let moment = |key: &str| -> Result<BurnTensor<1>> {
        let tensor = tensor(key)?;
        let flat = |spec: &Spec| Spec { shape: vec![spec.shape.iter().product()], ..spec.clone() };
        match (spec.layout, spec.shape.as_slice()) {
            (super::module::Layout::Transposed, &[rows, columns]) => {
                let current = BurnTensor::<2>::zeros([columns, rows], device);
                Ok(loaded(tensor, spec, &current)?.reshape([rows * columns]))
            }
            _ => loaded(tensor, &flat(spec), &BurnTensor::<1>::zeros([1], device)),
        }
    };
    let time = tensor("step")?.to_vec::<f32>()?.first().copied().unwrap_or(0.0);
    let momentum =
        AdaptiveMomentumState::new(time as usize, moment("exp_avg")?, moment("exp_avg_sq")?);
    Ok(AdamWState::new(momentum))
}

fn saved_state(optimizer: &Value) -> Option<&Dict> {
    optimizer.as_dict()?.get("state")?.as_dict()
}

fn saved_names(optimizer: &Value) -> Option<Vec<String>> {
    let groups = optimizer.as_dict()?.get("param_groups")?;
    let Value::List(groups) = groups.resolved() else { return None };
    let mut names = Vec::new();
    for group in groups {
        let group = group.as_dict()?.get("param_names")?;
        let Value::List(group) = group.resolved() else { return None };
        for name in group {
            names.push(name.as_str()?.to_owned());
        }
    }
    Some(names)
}

/// The names in a saved state dict that are no buffers of batch norm, in order.
fn parameters_of(model: &Value) -> Vec<String> {
    const BUFFERS: [&str; 3] = [".running_mean", ".running_var", ".num_batches_tracked"];
    let names = model.as_dict().into_iter().flat_map(Dict::keys);
    names
        .filter(|name| !BUFFERS.iter().any(|buffer| name.ends_with(buffer)))
        .map(str::to_owned)
        .collect()
}
