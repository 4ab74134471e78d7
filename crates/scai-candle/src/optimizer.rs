//! AdamW, with its state kept open.

use std::collections::{HashMap, HashSet};

use candle_core::backprop::GradStore;
use candle_core::{Tensor as CandleTensor, TensorId, Var};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};
use scai_checkpoint::load::{LoadReport, MatchOptions, Strictness, TensorSpec, match_state};
use scai_checkpoint::{Dict, Error, Result, Tensor, Value};

use crate::saved::{SavedState, saved_params};
use crate::tensor::{from_checkpoint, to_checkpoint};
use crate::var_map::{is_running_statistic, named_vars, spec};

/// Adam with decoupled weight decay, whose state can be saved and loaded.
///
/// It takes the place of [`candle_nn::AdamW`], whose moments are private: the constructors, the
/// [`Optimizer`] trait and the arithmetic are the same, bit for bit. The moments are saved by the
/// name of their variable, as `torch.optim.AdamW` saves them.
///
/// Source: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019.
///
/// ```
/// use candle_nn::{Optimizer, ParamsAdamW, VarMap};
/// use scai_candle::AdamW;
///
/// let vars = VarMap::new();
/// let params = ParamsAdamW { lr: 3e-4, ..ParamsAdamW::default() };
/// let optimizer = AdamW::new(vars.all_vars(), params)?;
/// let state = optimizer.state_dict(&vars)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AdamW {
    trained: Vec<Trained>,
    params: ParamsAdamW,
}

/// A variable with its part of the state.
#[derive(Debug)]
struct Trained {
    var: Var,
    /// Steps of the optimizer so far. Candle counts them once for all variables; a state that
    /// PyTorch saved may have another count for each.
    steps: usize,
    /// None before the first gradient.
    moments: Option<Moments>,
}

/// Running averages of the gradient and of its square. A step makes new ones: nothing is written into
/// the tensors, so a save may share them.
#[derive(Debug)]
struct Moments {
    first: CandleTensor,
    second: CandleTensor,
}

impl Optimizer for AdamW {
    type Config = ParamsAdamW;

    fn new(vars: Vec<Var>, params: ParamsAdamW) -> candle_core::Result<Self> {
        let vars = vars.into_iter().filter(|var| var.dtype().is_float());
        let trained = vars.map(|var| Trained { var, steps: 0, moments: None }).collect();
        Ok(Self { trained, params })
    }

    fn learning_rate(&self) -> f64 {
        self.params.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.params.lr = lr;
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        for trained in &mut self.trained {
            trained.steps += 1;
            if let Some(gradient) = grads.get(&trained.var) {
                trained.step(gradient, &self.params)?;
            }
        }
        Ok(())
    }
}

impl Trained {
    /// The operations of `candle_nn::AdamW` in their order, so that the bits are the same.
    fn step(&mut self, gradient: &CandleTensor, params: &ParamsAdamW) -> candle_core::Result<()> {
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = *params;
        let scale_first = 1.0 / (1.0 - beta1.powi(self.steps as i32));
        let scale_second = 1.0 / (1.0 - beta2.powi(self.steps as i32));
        let value = self.var.as_detached_tensor();
        let (first, second) = match &self.moments {
            Some(moments) => (moments.first.clone(), moments.second.clone()),
            None => (value.zeros_like()?, value.zeros_like()?),
        };
        let first = ((first * beta1)? + (gradient * (1.0 - beta1))?)?;
        let second = ((second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        let unbiased = ((&first * scale_first)?, (&second * scale_second)?);
        let decayed = (value * (1.0 - lr * weight_decay))?;
        let adjusted = (unbiased.0 / (unbiased.1.sqrt()? + eps)?)?;
        self.var.set(&(decayed - (adjusted * lr)?)?)?;
        self.moments = Some(Moments { first: first.detach(), second: second.detach() });
        Ok(())
    }
}

impl AdamW {
    /// An optimizer with this learning rate and candle's other defaults.
    ///
    /// # Errors
    /// None.
    pub fn new_lr(vars: Vec<Var>, learning_rate: f64) -> candle_core::Result<Self> {
        Self::new(vars, ParamsAdamW { lr: learning_rate, ..ParamsAdamW::default() })
    }

    /// The hyperparameters.
    pub fn params(&self) -> &ParamsAdamW {
        &self.params
    }

    /// Changes the hyperparameters.
    pub fn set_params(&mut self, params: ParamsAdamW) {
        self.params = params;
    }

    /// The state, as `torch.optim.AdamW.state_dict()` gives it, with the names that `vars` has for the
    /// variables.
    ///
    /// Names are in `param_names`, as PyTorch has them if an optimizer was made from
    /// `model.named_parameters()`, and the variables are numbered in the order in which they were made.
    /// Running statistics of batch norm are not trained and left out. The tensors are shared, not
    /// copied.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `vars` does not have a variable that is trained: its moments would be
    /// lost.
    pub fn state_dict(&self, vars: &VarMap) -> Result<Dict> {
        let named = self.named(vars)?.into_iter().map(|(name, at)| (name, &self.trained[at]));
        let named: Vec<(String, &Trained)> = named
            .filter(|(name, trained)| trained.moments.is_some() || !is_running_statistic(name))
            .collect();
        let mut state = Dict::new();
        for (index, (name, trained)) in (0_i64..).zip(&named) {
            let Some(Moments { first, second }) = &trained.moments else { continue };
            let mut entry = Dict::new();
            entry.insert("step", Tensor::from_vec(Vec::new(), vec![trained.steps as f32])?);
            entry.insert("exp_avg", to_checkpoint(first, name)?);
            entry.insert("exp_avg_sq", to_checkpoint(second, name)?);
            state.entries.push((Value::Int(index), entry.into()));
        }
        let names = named.iter().map(|(name, _)| Value::from(name.as_str())).collect();
        let mut dict = Dict::new();
        dict.insert("state", state);
        dict.insert("param_groups", vec![self.group(names).into()]);
        Ok(dict)
    }

    /// Takes over a saved state, by the names that `vars` has for the variables.
    ///
    /// With [`Strictness::Strict`], the default, all names and shapes must match, and the
    /// hyperparameters are those that were saved, the learning rate included, as in PyTorch. With
    /// `Partial`, variables without a match start without moments, and the hyperparameters stay those
    /// of this optimizer. The report lists the variables whose moments were taken as loaded.
    ///
    /// A state of PyTorch has names only if its optimizer was made from `model.named_parameters()`;
    /// [`with_param_names`](crate::with_param_names) adds them to any other.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the whole report if a strict load does not fit; [`Error::Invalid`]
    /// if the state is not one of AdamW, has no names, or hyperparameters that candle's AdamW does
    /// not have. On failure the optimizer does not change.
    pub fn load_state_dict(
        &mut self,
        saved: &Value,
        vars: &VarMap,
        options: &MatchOptions,
    ) -> Result<LoadReport> {
        let state = SavedState::read(saved, options)?;
        let named = self.named(vars)?;
        let mut wanted = Vec::new();
        for (name, at) in &named {
            // What was saved without moments, because it was never trained, lacks nothing.
            let is_untrained = state.untrained.contains(name) || is_running_statistic(name);
            if state.steps.contains_key(name) || !is_untrained {
                wanted.push(spec(name, &self.trained[*at].var)?);
            }
        }
        let partial = options.clone().strictness(Strictness::Partial);
        let first = match_state(&state.first.into(), &wanted, &partial)?;
        let mut report = first.report;
        let places: HashMap<String, usize> = named.into_iter().collect();
        let unexpected = state.untrained.into_iter().filter(|name| !places.contains_key(name));
        report.unexpected.extend(unexpected);
        if options.is_strict() && !report.is_complete() {
            return Err(Error::mismatch(report));
        }
        let loaded: HashSet<&String> = report.loaded.iter().collect();
        let (with, without): (Vec<TensorSpec>, Vec<TensorSpec>) =
            wanted.into_iter().partition(|spec| loaded.contains(&spec.name));
        let mut second = match_state(&state.second.into(), &with, &partial)?;
        second.report.unexpected.clear();
        if !second.report.is_complete() {
            return Err(Error::mismatch(second.report));
        }
        let params = match options.is_strict() {
            true => saved_params(saved)?,
            false => self.params.clone(),
        };
        // A variable that was never trained was counted with the others.
        let counted = state.steps.values().copied().max().unwrap_or(0);
        let fresh =
            |trained: &Trained| Trained { var: trained.var.clone(), steps: counted, moments: None };
        let mut trained: Vec<Trained> = self.trained.iter().map(fresh).collect();
        for spec in without {
            trained[places[&spec.name]].steps = 0;
        }
        for ((name, first), (_, second)) in first.tensors.iter().zip(&second.tensors) {
            let trained = &mut trained[places[name]];
            let value =
                |moment| from_checkpoint(moment, trained.var.dtype(), trained.var.device(), name);
            trained.moments = Some(Moments { first: value(first)?, second: value(second)? });
            trained.steps = state.steps[name];
        }
        self.trained = trained;
        self.params = params;
        Ok(report)
    }

    /// The name of each variable that is trained and its place in `self.trained`, in the order of
    /// `vars`.
    fn named(&self, vars: &VarMap) -> Result<Vec<(String, usize)>> {
        let trained = self.trained.iter().enumerate();
        let mut places: HashMap<TensorId, usize> =
            trained.map(|(at, trained)| (trained.var.id(), at)).collect();
        let mut named = Vec::with_capacity(places.len());
        for (name, var) in named_vars(vars) {
            named.extend(places.remove(&var.id()).map(|at| (name, at)));
        }
        if named.len() == self.trained.len() {
            return Ok(named);
        }
        let shapes = places.values().map(|at| self.trained[*at].var.dims());
        Err(Error::Invalid(format!(
            "the optimizer trains variables that are not in this map or that it was given twice, \
             such as one of the shape {:?}: use the map that it was made from",
            shapes.min().unwrap_or_default()
        )))
    }

    /// The one group of parameters, with every key that `torch.optim.AdamW` has.
    fn group(&self, names: Vec<Value>) -> Dict {
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = self.params;
        let indices: Vec<Value> = (0_i64..).zip(&names).map(|(at, _)| Value::Int(at)).collect();
        [
            ("lr", Value::Float(lr)),
            ("betas", Value::Tuple(vec![Value::Float(beta1), Value::Float(beta2)])),
            ("eps", Value::Float(eps)),
            ("weight_decay", Value::Float(weight_decay)),
            ("amsgrad", Value::Bool(false)),
            ("maximize", Value::Bool(false)),
            ("foreach", Value::None),
            ("capturable", Value::Bool(false)),
            ("differentiable", Value::Bool(false)),
            ("fused", Value::None),
            ("decoupled_weight_decay", Value::Bool(true)),
            ("params", Value::List(indices)),
            ("param_names", Value::List(names)),
        ]
        .into_iter()
        .collect()
    }
}
