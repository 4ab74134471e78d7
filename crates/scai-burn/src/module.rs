//! A burn module as a state dict with the names and layouts of PyTorch, and back.

use std::collections::{HashMap, VecDeque};

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::kind::{Autodiff, Basic};
use burn::tensor::{Bool, Int, Tensor as BurnTensor};
use scai_checkpoint::load::{LoadReport, MatchOptions, TensorSpec, match_state};
use scai_checkpoint::value::DictKind;
use scai_checkpoint::{Dict, Error, Result, Tensor, Value};

use crate::name::{Path, Role, Spec};
use crate::tensor::{Tracking, from_checkpoint, to_checkpoint};

/// The parameters and buffers of a module by name, as `torch.nn.Module.state_dict()` gives them.
///
/// The tensors are shared with the module, not copied: training may continue while they are saved,
/// because burn never changes a tensor in place that is held elsewhere. The module may be in
/// training; running statistics are those after its last forward pass.
///
/// # Errors
/// [`Error::Unsupported`] for a quantised module; [`Error::Invalid`] if two tensors have the same
/// name.
pub fn state_dict<M: Module>(module: &M) -> Result<Dict> {
    // Parameters are drawn when they are first read: here, before there are two copies.
    specs(module);
    // A running statistic is up to date only after this, and its cell is shared with clones.
    let module = module.valid();
    let mut dict = Dict { kind: DictKind::Ordered, ..Dict::default() };
    for (spec, tensor) in tensors(&module) {
        if dict.insert(spec.name.clone(), tensor?).is_some() {
            return Err(Error::Invalid(format!(
                "two tensors of the module have the name `{}` in PyTorch",
                spec.name
            )));
        }
        if let Some(name) = spec.counter {
            dict.insert(name, Tensor::from_vec(Vec::new(), vec![0_i64])?);
        }
    }
    Ok(dict)
}

/// A copy of `module` with the tensors of a saved state dict, and a report of what was loaded.
///
/// With [`Strictness::Strict`](scai_checkpoint::load::Strictness::Strict), the default, every name,
/// shape and element type must match. With `Partial`, what matches is loaded and the other tensors
/// keep their values. The copy is on the devices of `module` and requires gradients where `module`
/// does; `module` itself never changes, not even its running statistics.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::Device;
/// use scai_checkpoint::load::{MatchOptions, Strictness};
///
/// let device = Device::default();
/// let saved = scai_burn::state_dict(&LinearConfig::new(2, 3).with_bias(false).init(&device))?;
/// let model = LinearConfig::new(2, 3).init(&device);
/// let partial = MatchOptions::default().strictness(Strictness::Partial);
/// let (model, report) = scai_burn::load_state_dict(&model, &saved.into(), &partial)?;
/// assert_eq!(report.loaded, ["weight"]);
/// assert_eq!(report.missing, ["bias"]);
/// # Ok::<(), scai_burn::Error>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] with the whole report if a strict load does not fit; [`Error::Damaged`] if
/// the bytes of a tensor are not those that were saved.
pub fn load_state_dict<M: Module>(
    module: &M,
    saved: &Value,
    options: &MatchOptions,
) -> Result<(M, LoadReport)> {
    let matched = match_state(saved, &entries(&specs(module))?, options)?;
    let tensors = matched.tensors.into_iter().collect();
    let as_before = AsBefore::of(module);
    // Clones share the cells of running statistics; only these two calls make new ones.
    let copy = match as_before.tracking.iter().any(Tracking::is_autodiff) {
        true => module.valid().train(),
        false => module.clone().train().valid(),
    };
    let mut load = Load { path: Path::default(), tensors: &tensors, as_before, error: None };
    let loaded = copy.map(&mut load);
    match load.error {
        Some(error) => Err(error),
        None => Ok((loaded, matched.report)),
    }
}

/// The parameters of a module, without buffers: name, element type and shape in its state dict.
///
/// # Errors
/// [`Error::Unsupported`] for a quantised module.
pub fn named_parameters<M: Module>(module: &M) -> Result<Vec<TensorSpec>> {
    parameters(module).iter().map(Spec::entry).collect()
}

/// Sets the counters of batches (`num_batches_tracked`) in a state dict.
///
/// PyTorch's batch norm counts the batches that it was trained with and burn's does not, so
/// [`state_dict`] writes 0. PyTorch uses the number only if `momentum=None`.
///
/// # Errors
/// Those of [`Tensor::from_vec`].
pub fn set_num_batches_tracked(state_dict: &mut Dict, batches: u64) -> Result<()> {
    let batches = i64::try_from(batches).unwrap_or(i64::MAX);
    for (name, value) in &mut state_dict.entries {
        if name.as_str().is_some_and(is_counter) {
            *value = Tensor::from_vec(Vec::new(), vec![batches])?.into();
        }
    }
    Ok(())
}

/// The number of batches that batch norm was trained with according to a saved state dict, or 0 if
/// it does not say.
pub fn num_batches_tracked(state_dict: &Value) -> u64 {
    let Some(dict) = state_dict.as_dict() else { return 0 };
    let counter = dict.keys().find(|name| is_counter(name));
    let counter = counter.and_then(|name| dict.get(name)?.as_tensor());
    let count = counter.and_then(|tensor| tensor.to_vec::<i64>().ok()?.first().copied());
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

fn is_counter(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

/// The tensors of a module, in its order.
pub(crate) fn specs<M: Module>(module: &M) -> Vec<Spec> {
    tensors(module).into_iter().map(|(spec, _)| spec).collect()
}

/// The parameters of a module, in its order.
pub(crate) fn parameters<M: Module>(module: &M) -> Vec<Spec> {
    specs(module).into_iter().filter(|spec| spec.role == Role::Parameter).collect()
}

/// The entries that a state dict of a module must have, the counters of batch norm included.
fn entries(specs: &[Spec]) -> Result<Vec<TensorSpec>> {
    let mut entries = Vec::new();
    for spec in specs {
        entries.push(spec.entry()?);
        entries.extend(spec.counter_entry());
    }
    Ok(entries)
}

fn tensors<M: Module>(module: &M) -> Vec<(Spec, Result<Tensor>)> {
    #[derive(Default)]
    struct Collect {
        path: Path,
        found: Vec<(Spec, Result<Tensor>)>,
    }
    impl Collect {
        fn collect<const D: usize, K>(&mut self, tensor: BurnTensor<D, K>)
        where
            K: Basic + Autodiff + Send + Sync + 'static,
        {
            let tensor = tensor.without_autodiff();
            let spec = self.path.spec(&tensor);
            let tensor = to_checkpoint(tensor, &spec);
            self.found.push((spec, tensor));
        }
    }
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<BurnTensor<D>>) {
            self.collect(param.val());
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<BurnTensor<D, Int>>) {
            self.collect(param.val());
        }
        fn visit_bool<const D: usize>(&mut self, param: &Param<BurnTensor<D, Bool>>) {
            self.collect(param.val());
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let mut collect = Collect::default();
    module.visit(&mut collect);
    collect.found
}

/// What a copy of a module takes over from it besides tensors, in the order of its fields.
#[derive(Default)]
struct AsBefore {
    tracking: VecDeque<Tracking>,
    flags: VecDeque<Param<Flag>>,
}

impl AsBefore {
    fn of<M: Module>(module: &M) -> Self {
        let mut as_before = Self::default();
        module.visit(&mut as_before);
        as_before
    }
}

impl ModuleVisitor for AsBefore {
    fn visit_float<const D: usize>(&mut self, param: &Param<BurnTensor<D>>) {
        self.tracking.push_back(Tracking::of_float(&param.val()));
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<BurnTensor<D, Int>>) {
        self.tracking.push_back(Tracking::of(&param.val()));
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<BurnTensor<D, Bool>>) {
        self.tracking.push_back(Tracking::of(&param.val()));
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.flags.push_back(flag.clone());
    }
}

/// Puts tensors into a module.
struct Load<'a> {
    path: Path,
    tensors: &'a HashMap<String, Tensor>,
    as_before: AsBefore,
    error: Option<Error>,
}

impl Load<'_> {
    /// The value that takes the place of `current`.
    fn value<const D: usize, K: Basic>(&mut self, current: BurnTensor<D, K>) -> BurnTensor<D, K> {
        let spec = self.path.spec(&current);
        let Some(saved) = self.tensors.get(&spec.name) else { return current };
        from_checkpoint(saved, &spec).unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            current
        })
    }

    /// As [`Load::value`], with the part in automatic differentiation that it had.
    fn constant<const D: usize, K: Basic + Autodiff>(
        &mut self,
        current: BurnTensor<D, K>,
    ) -> BurnTensor<D, K> {
        let value = self.value(current);
        match self.as_before.tracking.pop_front() {
            Some(tracking) => tracking.apply_to(value),
            None => value,
        }
    }
}

impl ModuleMapper for Load<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<BurnTensor<D>>) -> Param<BurnTensor<D>> {
        let id = param.id;
        param.map(|current| {
            let value = self.value(current);
            match self.as_before.tracking.pop_front() {
                Some(tracking) => tracking.apply_to_float(value, id),
                None => value,
            }
        })
    }
    fn map_int<const D: usize>(
        &mut self,
        param: Param<BurnTensor<D, Int>>,
    ) -> Param<BurnTensor<D, Int>> {
        param.map(|current| self.constant(current))
    }
    fn map_bool<const D: usize>(
        &mut self,
        param: Param<BurnTensor<D, Bool>>,
    ) -> Param<BurnTensor<D, Bool>> {
        param.map(|current| self.constant(current))
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.as_before.flags.pop_front().unwrap_or(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}
