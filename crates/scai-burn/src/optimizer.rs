//! AdamW, with its state kept by the names of the parameters.

use std::collections::{BTreeMap, HashMap, HashSet};

use burn::grad_clipping::{GradientClipping, GradientClippingConfig};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{
    AdamW as Rule, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, LearningRate,
    Optimizer,
};
use burn::tensor::Tensor as BurnTensor;
use scai_checkpoint::load::{
    LoadReport, MatchOptions, TensorSpec, param_names, transfer_optimizer,
};
use scai_checkpoint::{Dict, Error, Result, Tensor, Value};

use crate::module::parameters;
use crate::name::{Layout, Path, Spec};
use crate::tensor::{Tracking, from_checkpoint, to_checkpoint};

/// Adam with decoupled weight decay, whose state can be saved and loaded by name.
///
/// Its arithmetic is burn's [`burn::optim::AdamW`], bit for bit. Burn's own
/// [`ModuleOptimizer`](burn::optim::ModuleOptimizer) keeps the moments under numbers that differ
/// from run to run; here they are kept by the name of their parameter, so that they are saved as
/// `torch.optim.AdamW` saves them and can be moved to another model. Cloning shares the moments.
///
/// Source: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019.
///
/// ```
/// use burn::optim::AdamWConfig;
/// use scai_burn::AdamW;
///
/// // Burn's default epsilon is 1e-5 and its weight decay 1e-4; PyTorch's are 1e-8 and 1e-2.
/// let config = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-2);
/// let optimizer = AdamW::new(&config)?;
/// # Ok::<(), scai_burn::Error>(())
/// ```
#[derive(Clone)]
pub struct AdamW {
    rule: Rule,
    settings: Settings,
    clipping: Option<GradientClipping>,
    /// By name. A parameter that was not trained yet has none. They are flat, since Adam treats
    /// each element separately.
    moments: BTreeMap<String, AdamWState<1>>,
}

/// The fields of [`AdamWConfig`], which burn keeps private but serialises.
#[derive(Debug, Clone, serde::Deserialize)]
struct Settings {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    weight_decay: f32,
    cautious_weight_decay: bool,
    amsgrad: bool,
    grad_clipping: Option<GradientClippingConfig>,
}

impl std::fmt::Debug for AdamW {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdamW")
            .field("settings", &self.settings)
            .field("parameters", &self.moments.len())
            .finish_non_exhaustive()
    }
}

impl AdamW {
    /// An optimizer without any state yet. It clips gradients if `config` says so.
    ///
    /// # Errors
    /// If the version of burn has a configuration that this crate does not know.
    pub fn new(config: &AdamWConfig) -> Result<Self> {
        let settings = serde_json::to_value(config).and_then(serde_json::from_value::<Settings>);
        let settings = settings.map_err(|error| {
            Error::Invalid(format!("the configuration of AdamW cannot be read: {error}"))
        })?;
        let clipping = settings.grad_clipping.as_ref().map(GradientClippingConfig::init);
        Ok(Self { rule: config.build(), settings, clipping, moments: BTreeMap::new() })
    }

    /// Updates the parameters of `model` with their gradients, as
    /// [`ModuleOptimizer::step`](burn::optim::ModuleOptimizer::step) does.
    #[must_use = "the updated model is returned"]
    pub fn step<M: Module>(
        &mut self,
        learning_rate: LearningRate,
        model: M,
        gradients: GradientsParams,
    ) -> M {
        model.map(&mut Step { optimizer: self, gradients, learning_rate, path: Path::default() })
    }

    /// The state for `model`, as `torch.optim.AdamW.state_dict()` gives it.
    ///
    /// Burn is given the learning rate at each step; PyTorch keeps it in the state, which is what
    /// `learning_rate` is for. Names are in `param_names`, as PyTorch has them if an optimizer was
    /// made from `model.named_parameters()`. The tensors are shared, not copied.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a parameter of `model` is not the one that was trained, because its
    /// shape differs or it is gone: its moments would be lost.
    pub fn state_dict<M: Module>(&self, model: &M, learning_rate: LearningRate) -> Result<Dict> {
        let parameters = parameters(model);
        let names: HashSet<&str> = parameters.iter().map(|spec| spec.name.as_str()).collect();
        if let Some(name) = self.moments.keys().find(|name| !names.contains(name.as_str())) {
            return Err(Error::Invalid(format!(
                "the optimizer has trained a parameter `{name}`, which the model does not have: \
                 save it with the model that it trains"
            )));
        }
        let mut state = Dict::new();
        for (index, spec) in (0_i64..).zip(&parameters) {
            let Some(AdamWState { momentum }) = self.moments.get(&spec.name) else { continue };
            state.entries.push((Value::Int(index), saved_moments(momentum, spec)?.into()));
        }
        let mut dict = Dict::new();
        dict.insert("state", state);
        dict.insert("param_groups", vec![self.group(&parameters, learning_rate).into()]);
        Ok(dict)
    }

    /// Takes over the moments of a saved state for the parameters of `model`, by name.
    ///
    /// With [`Strictness::Strict`](scai_checkpoint::load::Strictness::Strict), the default, all names and shapes must match; with `Partial`,
    /// parameters without a match start without moments. Hyperparameters stay those of this
    /// optimizer. The report lists the parameters whose moments were taken as loaded.
    ///
    /// A state of PyTorch has names only if its optimizer was made from
    /// `model.named_parameters()`; [`with_param_names`](crate::with_param_names) adds them to any other.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the whole report if a strict load does not fit; [`Error::Invalid`]
    /// if the state is not one of AdamW or has no names. On failure the optimizer does not change.
    pub fn load_state_dict<M: Module>(
        &mut self,
        saved: &Value,
        model: &M,
        options: &MatchOptions,
    ) -> Result<LoadReport> {
        let parameters = parameters(model);
        let wanted: Vec<TensorSpec> = parameters.iter().map(Spec::entry).collect::<Result<_>>()?;
        let saved_names = param_names(saved)?;
        let none = Value::Dict(Dict::new());
        let (moved, mut report) = transfer_optimizer(saved, &saved_names, &none, &wanted, options)?;
        // A parameter that was saved without moments, since it was never trained, lacks nothing.
        let saved_names: HashSet<String> =
            saved_names.iter().map(|name| options.rename(name)).collect();
        report.missing.retain(|name| !saved_names.contains(name));
        if options.is_strict() && !report.is_complete() {
            return Err(Error::mismatch(report));
        }
        let by_index: HashMap<i64, &Value> = moved
            .lookup("state")
            .and_then(Value::as_dict)
            .into_iter()
            .flat_map(|state| &state.entries)
            .filter_map(|(index, entry)| Some((index.as_int()?, entry)))
            .collect();
        let mut moments = BTreeMap::new();
        for (index, spec) in (0_i64..).zip(&parameters) {
            let Some(entry) = by_index.get(&index) else { continue };
            let momentum = loaded_moments(entry, spec)?;
            if options.is_strict() && momentum.max_moment_2.is_some() != self.settings.amsgrad {
                let (saved, ours) = match self.settings.amsgrad {
                    true => ("without", "with"),
                    false => ("with", "without"),
                };
                return Err(Error::Invalid(format!(
                    "the optimizer state was saved {saved} amsgrad, but this optimizer is {ours} \
                     it: change its configuration, or load partially"
                )));
            }
            moments.insert(spec.name.clone(), AdamWState::new(momentum));
        }
        self.moments = moments;
        Ok(report)
    }

    /// The one group of parameters, with every key that `torch.optim.AdamW` has.
    fn group(&self, parameters: &[Spec], learning_rate: f64) -> Dict {
        let settings = &self.settings;
        let mut group = Dict::new();
        group.insert("lr", learning_rate);
        let betas = vec![decimal(settings.beta_1), decimal(settings.beta_2)];
        group.insert("betas", Value::Tuple(betas));
        group.insert("eps", decimal(settings.epsilon));
        group.insert("weight_decay", decimal(settings.weight_decay));
        for (flag, value) in [
            ("amsgrad", Value::Bool(settings.amsgrad)),
            ("maximize", Value::Bool(false)),
            ("foreach", Value::None),
            ("capturable", Value::Bool(false)),
            ("differentiable", Value::Bool(false)),
            ("fused", Value::None),
            ("decoupled_weight_decay", Value::Bool(true)),
        ] {
            group.insert(flag, value);
        }
        if settings.cautious_weight_decay {
            group.insert("cautious_weight_decay", true);
        }
        let indices = (0_i64..).zip(parameters).map(|(index, _)| Value::Int(index));
        group.insert("params", indices.collect::<Vec<_>>());
        let names = parameters.iter().map(|spec| Value::from(spec.name.as_str()));
        group.insert("param_names", names.collect::<Vec<_>>());
        group
    }
}

/// One step of the optimizer through a module.
struct Step<'a> {
    optimizer: &'a mut AdamW,
    gradients: GradientsParams,
    learning_rate: f64,
    path: Path,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<BurnTensor<D>>) -> Param<BurnTensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let Some(gradient) = self.gradients.remove::<D>(id) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let gradient = match &self.optimizer.clipping {
            Some(clipping) => clipping.clip_gradient(gradient),
            None => gradient,
        };
        let (tracking, shape) = (Tracking::of_float(&tensor), tensor.dims());
        let flat = [tensor.shape().num_elements()];
        let name = self.path.name();
        let state = self.optimizer.moments.remove(&name);
        let state = state.map(|state| Rule::to_device(state, &gradient.device()));
        let (updated, state) = self.optimizer.rule.step(
            self.learning_rate,
            tensor.to_device(&gradient.device()).inner().reshape(flat),
            gradient.reshape(flat),
            state,
        );
        self.optimizer.moments.extend(state.map(|state| (name, state)));
        let updated = tracking.apply_to_float(updated.reshape(shape), id);
        Param::from_mapped_value(id, updated, mapper)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}

/// A number of single precision as a person would write it: 0.9, not 0.8999999762.
fn decimal(number: f32) -> Value {
    Value::Float(number.to_string().parse().unwrap_or(f64::from(number)))
}

fn saved_moments(momentum: &AdaptiveMomentumState<1>, spec: &Spec) -> Result<Dict> {
    // Flat moments are saved in the shape and layout of their parameter.
    let saved = |flat: &BurnTensor<1>| {
        let elements = spec.shape.iter().product::<usize>();
        if flat.dims() != [elements] {
            return Err(Error::Invalid(format!(
                "the optimizer has trained `{}` with {} elements, but the model has {elements}: \
                 save it with the model that it trains",
                spec.name,
                flat.dims()[0]
            )));
        }
        match (spec.layout, spec.shape.as_slice()) {
            (Layout::Transposed, &[rows, columns]) => {
                to_checkpoint(flat.clone().reshape([columns, rows]), spec)
            }
            _ => to_checkpoint(flat.clone(), spec),
        }
    };
    let mut entry = Dict::new();
    entry.insert("step", Tensor::from_vec(Vec::new(), vec![momentum.time as f32])?);
    entry.insert("exp_avg", saved(&momentum.moment_1)?);
    entry.insert("exp_avg_sq", saved(&momentum.moment_2)?);
    if let Some(max) = &momentum.max_moment_2 {
        entry.insert("max_exp_avg_sq", saved(max)?);
    }
    Ok(entry)
}

fn loaded_moments(entry: &Value, spec: &Spec) -> Result<AdaptiveMomentumState<1>> {
    let entry = entry.as_dict();
    let lacks = |key: &str| {
        Error::Invalid(format!(
            "the optimizer state of `{}` has no `{key}`: it is not the state of AdamW",
            spec.name
        ))
    };
    let loaded = |tensor: &Tensor| -> Result<BurnTensor<1>> {
        match (spec.layout, spec.shape.as_slice()) {
            (Layout::Transposed, &[rows, columns]) => {
                let moment: BurnTensor<2> = from_checkpoint(tensor, spec)?;
                Ok(moment.reshape([rows * columns]))
            }
            _ => {
                let flat = Spec { shape: vec![spec.shape.iter().product()], ..spec.clone() };
                from_checkpoint(tensor, &flat)
            }
        }
    };
    let field = |key: &str| entry.and_then(|entry| entry.get(key));
    let moment =
        |key: &str| loaded(field(key).and_then(Value::as_tensor).ok_or_else(|| lacks(key))?);
    let step = match field("step").map(Value::resolved) {
        Some(Value::Int(step)) => *step as f64,
        Some(Value::Float(step)) => *step,
        Some(Value::Tensor(step)) => {
            f64::from(step.to_vec::<f32>()?.first().copied().ok_or_else(|| lacks("step"))?)
        }
        _ => return Err(lacks("step")),
    };
    let mut momentum =
        AdaptiveMomentumState::new(step as usize, moment("exp_avg")?, moment("exp_avg_sq")?);
    momentum.max_moment_2 =
        field("max_exp_avg_sq").and_then(Value::as_tensor).map(loaded).transpose()?;
    Ok(momentum)
}
