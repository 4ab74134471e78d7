//! A burn module as a state dict with the names and layouts of PyTorch, and back.
//!
//! Burn calls batch norm's parameters `gamma` and `beta` where PyTorch says `weight` and `bias`,
//! and keeps the weight of a linear layer as `[in, out]` where PyTorch has `[out, in]`.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor as BurnTensor, TensorData};
use scai_checkpoint::load::TensorSpec;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::value::DictKind;
use scai_checkpoint::{DType, Dict, Tensor, Value};

use crate::error::{Error, Result};

/// What a tensor of a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is trained.
    Parameter,
    /// It is saved, and not trained: a running statistic.
    Buffer,
}

/// Whether a tensor lies in memory as PyTorch has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// It does.
    Same,
    /// Rows and columns are exchanged.
    Transposed,
}

/// A tensor of a module, as PyTorch would describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Name in the state dict.
    pub(crate) name: String,
    /// Shape in the state dict.
    pub(crate) shape: Vec<usize>,
    pub(crate) role: Role,
    pub(crate) layout: Layout,
}

/// The state dict of a module.
///
/// The tensors are shared with the module, not copied: burn changes none in place that somebody
/// else holds. `batches` is the number of batches that batch norm has seen in training, which
/// PyTorch keeps and burn does not. The module must not be one that is being trained (see
/// [`Module::valid`]): there the running statistics are those of the batch before.
pub(crate) fn state_dict<M: Module>(module: &M, batches: u64) -> Result<Dict> {
    struct Collect {
        path: Path,
        batches: u64,
        dict: Result<Dict>,
    }
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<BurnTensor<D>>) {
            let tensor = param.val().without_autodiff();
            let spec = self.path.spec(tensor.dims().to_vec());
            let entry = shared(tensor, &spec).and_then(|tensor| {
                let counter = batches_tracked(&spec.name);
                let counter = match counter {
                    Some(name) => Some((name, batch_counter(self.batches)?)),
                    None => None,
                };
                Ok((tensor, counter))
            });
            let Ok(dict) = &mut self.dict else { return };
            match entry {
                Ok((tensor, counter)) => {
                    dict.insert(spec.name, tensor);
                    if let Some((name, counter)) = counter {
                        dict.insert(name, counter);
                    }
                }
                Err(error) => self.dict = Err(error),
            }
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let dict = Dict { kind: DictKind::Ordered, ..Dict::default() };
    let mut collect = Collect { path: Path::default(), batches, dict: Ok(dict) };
    module.visit(&mut collect);
    collect.dict
}

/// The tensors of a module, in its order.
pub(crate) fn specs<M: Module>(module: &M) -> Vec<Spec> {
    struct Collect {
        path: Path,
        specs: Vec<Spec>,
    }
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<BurnTensor<D>>) {
            self.specs.push(self.path.spec(param.val().dims().to_vec()));
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let mut collect = Collect { path: Path::default(), specs: Vec::new() };
    module.visit(&mut collect);
    collect.specs
}

/// What a state dict of the module must hold, the counters of batch norm included.
pub(crate) fn expected(specs: &[Spec]) -> Vec<TensorSpec> {
    let mut expected = Vec::new();
    for Spec { name, shape, .. } in specs {
        let (name, shape) = (name.clone(), shape.clone());
        let counter = batches_tracked(&name);
        expected.push(TensorSpec { name, dtype: DType::Float32, shape });
        expected.extend(counter.map(|name| TensorSpec {
            name,
            dtype: DType::Int64,
            shape: Vec::new(),
        }));
    }
    expected
}

/// The module with the tensors that are in `tensors`, by their names, and its own otherwise.
///
/// # Errors
/// Where the bytes of a tensor cannot be read. Shapes must have been matched before.
pub(crate) fn with_tensors<M: Module>(module: M, tensors: &HashMap<String, Tensor>) -> Result<M> {
    struct Load<'a> {
        path: Path,
        tensors: &'a HashMap<String, Tensor>,
        outcome: Result<()>,
    }
    impl ModuleMapper for Load<'_> {
        fn map_float<const D: usize>(
            &mut self,
            param: Param<BurnTensor<D>>,
        ) -> Param<BurnTensor<D>> {
            let (id, current, mapper) = param.consume();
            let spec = self.path.spec(current.dims().to_vec());
            let loaded = match self.tensors.get(&spec.name) {
                Some(tensor) => loaded(tensor, &spec, &current),
                None => Ok(current.clone()),
            };
            let value = loaded.unwrap_or_else(|error| {
                self.outcome = Err(error);
                current
            });
            Param::from_mapped_value(id, value, mapper)
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let mut load = Load { path: Path::default(), tensors, outcome: Ok(()) };
    let module = module.map(&mut load);
    load.outcome.map(|()| module)
}

/// How many batches batch norm has seen, by a saved state dict; 0 where none says.
pub(crate) fn batches_seen(state_dict: &Value) -> u64 {
    let Some(dict) = state_dict.as_dict() else { return 0 };
    let counter = dict.keys().find(|key| key.ends_with(".num_batches_tracked"));
    let counter = counter.and_then(|key| dict.get(key)?.as_tensor());
    let count = counter.and_then(|tensor| tensor.to_vec::<i64>().ok()?.first().copied());
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

/// The place in a module during a visit.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// The names so far, each with what holds it.
    parts: Vec<(String, String)>,
}

impl Path {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.parts.push((name.to_owned(), container.to_owned()));
    }

    pub(crate) fn exit(&mut self) {
        self.parts.pop();
    }

    /// What PyTorch calls the tensor here, which burn has in `shape`.
    pub(crate) fn spec(&self, mut shape: Vec<usize>) -> Spec {
        let (field, container) =
            self.parts.last().map_or(("", ""), |(name, container)| (name, container));
        let batch_norm = container == "Struct:BatchNorm";
        let last = match field {
            "gamma" if batch_norm => "weight",
            "beta" if batch_norm => "bias",
            field => field,
        };
        let role = match field {
            "running_mean" | "running_var" if batch_norm => Role::Buffer,
            _ => Role::Parameter,
        };
        let transposed = container == "Struct:Linear" && field == "weight" && shape.len() == 2;
        if transposed {
            shape.reverse();
        }
        let parents = self.parts.iter().rev().skip(1).rev().map(|(name, _)| name.as_str());
        let names: Vec<&str> = parents.chain([last]).collect();
        let layout = if transposed { Layout::Transposed } else { Layout::Same };
        Spec { name: names.join("."), shape, role, layout }
    }
}

/// The counter that follows a running variance in PyTorch's batch norm.
fn batches_tracked(name: &str) -> Option<String> {
    let prefix = name.strip_suffix("running_var").filter(|prefix| prefix.ends_with('.'))?;
    Some(format!("{prefix}num_batches_tracked"))
}

fn batch_counter(batches: u64) -> Result<Tensor> {
    let batches = i64::try_from(batches).unwrap_or(i64::MAX);
    Ok(Tensor::from_vec(Vec::new(), vec![batches])?)
}

/// A tensor of burn as one of a checkpoint, whose bytes are asked for when they are written.
pub(crate) fn shared<const D: usize>(tensor: BurnTensor<D>, spec: &Spec) -> Result<Tensor> {
    let tensor = match spec.layout {
        Layout::Transposed => tensor.transpose(),
        Layout::Same => tensor,
    };
    let shape = spec.shape.clone();
    let len = (shape.iter().product::<usize>() * size_of::<f32>()) as u64;
    let storage = Storage::produced(len, move || {
        let values: Vec<f32> = tensor
            .try_to_vec_as()
            .map_err(|error| scai_checkpoint::Error::Invalid(format!("{error:?}")))?;
        Ok(bytemuck::allocation::pod_collect_to_vec(&values))
    });
    Ok(Tensor::contiguous(DType::Float32, shape, storage)?)
}

/// A tensor of a checkpoint as one of burn, on the device and in the place of `current`.
///
/// The elements lie in memory as burn itself lays them out, row by row: a transposed view would
/// have the same elements, and products of matrices would differ in their last bits.
pub(crate) fn loaded<const D: usize>(
    tensor: &Tensor,
    spec: &Spec,
    current: &BurnTensor<D>,
) -> Result<BurnTensor<D>> {
    let mut values: Vec<f32> = tensor.to_vec()?;
    let mut shape: [usize; D] = spec
        .shape
        .as_slice()
        .try_into()
        .map_err(|_| Error::State(format!("`{}` has another rank", spec.name)))?;
    if spec.layout == Layout::Transposed {
        let (rows, columns) = (shape[0], shape[1]);
        values = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
        shape.reverse();
    }
    Ok(BurnTensor::from_data(TensorData::new(values, shape), &current.device()))
}
