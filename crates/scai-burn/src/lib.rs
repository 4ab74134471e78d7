//! Checkpoints of burn models and optimizers that PyTorch opens and that resume bit for bit.
//!
//! Each function here turns a [burn] module or optimizer into a state dict with the names and
//! layouts of PyTorch, or back. `scai_checkpoint` saves them, so that a save survives kills and
//! power loss and damage is never loaded. The file is an ordinary `.pt`: `torch.load` opens it, and
//! a model that PyTorch saved loads into the same model in burn.
//!
//! ```toml
//! [dependencies]
//! burn = { version = "0.22", default-features = false, features = ["std", "optim", "flex"] }
//! scai-burn = { path = "crates/scai-burn" }
//! scai-checkpoint = { path = "crates/scai-checkpoint" }
//! ```
//!
//! `flex` is burn's backend for the CPU; choose another by its feature.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
//! use burn::optim::{AdamWConfig, GradientsParams};
//! use burn::tensor::{Device, Distribution, Tensor};
//! use scai_burn::AdamW;
//! use scai_checkpoint::load::MatchOptions;
//! use scai_checkpoint::{Checkpoint, CheckpointManager, Options};
//!
//! const LEARNING_RATE: f64 = 1e-3;
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     fc1: Linear,
//!     norm: BatchNorm,
//!     fc2: Linear,
//! }
//!
//! impl Net {
//!     fn new(device: &Device) -> Self {
//!         Self {
//!             fc1: LinearConfig::new(8, 16).init(device),
//!             norm: BatchNormConfig::new(16).init(device),
//!             fc2: LinearConfig::new(16, 1).init(device),
//!         }
//!     }
//!
//!     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
//!         self.fc2.forward(self.norm.forward(self.fc1.forward(x)).tanh())
//!     }
//! }
//!
//! fn train_step(model: Net, optimizer: &mut AdamW, step: u64, device: &Device) -> Net {
//!     device.seed(step); // the batch depends on the step alone
//!     let x = Tensor::random([32, 8], Distribution::Default, device);
//!     let loss = (model.forward(x.clone()) - x.sum_dim(1)).square().mean();
//!     let gradients = GradientsParams::from_grads(loss.backward(), &model);
//!     optimizer.step(LEARNING_RATE, model, gradients)
//! }
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path().join("checkpoints");
//! let device = Device::default().autodiff();
//! let mut model = Net::new(&device);
//! let mut optimizer = AdamW::new(&AdamWConfig::new())?; // not `.init()`: see below
//! model = train_step(model, &mut optimizer, 0, &device);
//!
//! // Save after the first step.
//! let options = Options::default().retention("last:3".parse()?);
//! let manager = CheckpointManager::create(&directory, options)?;
//! let model_state = scai_burn::state_dict(&model)?;
//! let optimizer_state = optimizer.state_dict(&model, LEARNING_RATE)?;
//! manager.save(Checkpoint::new(1, model_state, optimizer_state))?;
//!
//! // Load into a new model and a new optimizer.
//! let found = manager.resume()?.expect("a checkpoint was saved").checkpoint;
//! let strict = MatchOptions::default();
//! let (mut resumed, report) =
//!     scai_burn::load_state_dict(&Net::new(&device), &found.model_state_dict, &strict)?;
//! assert!(report.is_complete());
//! let mut resumed_optimizer = AdamW::new(&AdamWConfig::new())?;
//! resumed_optimizer.load_state_dict(&found.optimizer_state_dict, &resumed, &strict)?;
//!
//! // Both continue with the same bits.
//! model = train_step(model, &mut optimizer, 1, &device);
//! resumed = train_step(resumed, &mut resumed_optimizer, found.iteration, &device);
//! assert_eq!(
//!     resumed.fc1.weight.val().into_data().as_bytes(),
//!     model.fc1.weight.val().into_data().as_bytes(),
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`examples/resume.rs`] is a whole training run that can be killed at any time and continues. To
//! load part of a model, or one with other names, see [`MatchOptions`]; to read a file that is not
//! in a directory of checkpoints, [`scai_checkpoint::file`].
//!
//! # Names and layouts
//!
//! A tensor is named by the fields that lead to it: `blocks.0.conv.weight`. Parameters, running
//! statistics, and constants of integers and truth values (`Param<Tensor<D, Int>>`) are saved. What
//! differs between burn and PyTorch is translated:
//!
//! | burn | PyTorch |
//! |---|---|
//! | `Linear`: `weight` of shape `[in, out]` | `weight` of shape `[out, in]` |
//! | `BatchNorm`, `LayerNorm`, `GroupNorm`, `InstanceNorm`, `RmsNorm`: `gamma`, `beta` | `weight`, `bias` |
//! | `BatchNorm` has no counter | `num_batches_tracked` (0; see [`set_num_batches_tracked`]) |
//! | `PRelu`: `alpha` | `weight` |
//! | `Conv1d` to `Conv3d`, `ConvTranspose1d` to `ConvTranspose3d`, `Embedding` | the same |
//!
//! Element types are kept and must match in a load. Burn's integers have 32 bits by default, PyTorch's
//! have 64.
//!
//! The type's name decides: a type of yours called `Linear` is treated as burn's. Attention and
//! recurrent modules (`MultiHeadAttention`, `Lstm`, `Gru`) consist of other tensors in PyTorch. They
//! are saved with burn's fields and load into burn exactly; PyTorch's classes cannot load them.
//! Quantised modules are an error.
//!
//! # Optimizers
//!
//! [`AdamW`] is the optimizer whose state can be saved: burn's `AdamW`, amsgrad and gradient
//! clipping included. Create it with `AdamW::new(&config)` in place of `config.init()`; the latter
//! is a `ModuleOptimizer`, which shows neither its rule nor its hyperparameters and so is not
//! accepted here. Plain `Adam` is `AdamW` with a weight decay of 0.
//!
//! # What else a training run consists of
//!
//! A training run resumes exactly if everything it depends on is saved or follows from the iteration:
//!
//! * **Random numbers.** Burn's generator can be seeded and its state cannot be read. Seed it by
//!   the number of the step (`device.seed(step)`), as above: dropout and batches then depend on the
//!   step alone.
//! * **The learning rate** and anything else of your own: put it into
//!   [`Checkpoint::training_stats`], [`Checkpoint::metadata`] or [`Checkpoint::parts`] with
//!   [`to_value`](scai_checkpoint::value::to_value).
//!
//! Several models and optimizers fit into one checkpoint: the first two in its fields, the others as
//! parts of any name, `checkpoint.parts.insert("critic", scai_burn::state_dict(&critic)?)`. They are
//! loaded from `checkpoint.parts.get("critic")`.
//!
//! The bits are equal on one machine with one build. A linear layer with `LinearLayout::Col` is
//! loaded row by row, as the optimizer leaves it after its first step.
//!
//! [burn]: https://burn.dev
//! [`examples/resume.rs`]: https://example.invalid/scai/blob/main/crates/scai-burn/examples/resume.rs
//! [`MatchOptions`]: scai_checkpoint::load::MatchOptions
//! [`Checkpoint::training_stats`]: scai_checkpoint::Checkpoint::training_stats
//! [`Checkpoint::metadata`]: scai_checkpoint::Checkpoint::metadata
//! [`Checkpoint::parts`]: scai_checkpoint::Checkpoint::parts

mod dtype;
mod module;
mod name;
mod optimizer;
mod tensor;

pub use module::{
    load_state_dict, named_parameters, num_batches_tracked, set_num_batches_tracked, state_dict,
};
pub use optimizer::AdamW;
pub use scai_checkpoint::load::with_param_names;
pub use scai_checkpoint::{Error, Result};
