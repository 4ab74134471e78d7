//! Checkpoints of candle models and AdamW that PyTorch opens and that resume bit for bit.
//!
//! The functions here turn the variables of a [candle] model, and an optimizer, into state dicts as
//! PyTorch has them, and back. `scai_checkpoint` saves them, so that a save survives kills and power
//! loss and damage is never loaded. The file is an ordinary `.pt`: `torch.load` opens it, and what
//! PyTorch saved loads into the same model in candle.
//!
//! ```toml
//! [dependencies]
//! candle-core = "0.11"
//! candle-nn = "0.11"
//! scai-candle = { path = "crates/scai-candle" }
//! scai-checkpoint = { path = "crates/scai-checkpoint" }
//! ```
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Linear, Module, Optimizer, VarBuilder, VarMap, linear};
//! use scai_candle::AdamW; // in place of `candle_nn::AdamW`, which cannot be saved
//! use scai_checkpoint::load::MatchOptions;
//! use scai_checkpoint::{Checkpoint, CheckpointManager, Options};
//!
//! struct Net {
//!     fc1: Linear,
//!     fc2: Linear,
//! }
//!
//! impl Net {
//!     fn new(vars: &VarMap) -> candle_core::Result<Self> {
//!         let builder = VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu);
//!         Ok(Self { fc1: linear(8, 16, builder.pp("fc1"))?, fc2: linear(16, 1, builder.pp("fc2"))? })
//!     }
//!
//!     fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
//!         self.fc2.forward(&self.fc1.forward(x)?.tanh()?)
//!     }
//! }
//!
//! fn train_step(model: &Net, optimizer: &mut AdamW, step: u64) -> candle_core::Result<()> {
//!     // The batch depends on the step alone.
//!     let x: Vec<f32> = (0..32 * 8).map(|i| ((i + step) as f32).sin()).collect();
//!     let x = Tensor::from_vec(x, (32, 8), &Device::Cpu)?;
//!     let loss = (model.forward(&x)? - x.sum_keepdim(1)?)?.sqr()?.mean_all()?;
//!     optimizer.backward_step(&loss)
//! }
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path().join("checkpoints");
//! let vars = VarMap::new();
//! let model = Net::new(&vars)?;
//! let mut optimizer = AdamW::new_lr(vars.all_vars(), 1e-3)?;
//! train_step(&model, &mut optimizer, 0)?;
//!
//! // Save after the first step.
//! let options = Options::default().retention("last:3".parse()?);
//! let manager = CheckpointManager::create(&directory, options)?;
//! let model_state = scai_candle::state_dict(&vars)?;
//! manager.save(Checkpoint::new(1, model_state, optimizer.state_dict(&vars)?))?;
//!
//! // Load into a new model and a new optimizer.
//! let resumed_vars = VarMap::new();
//! let resumed = Net::new(&resumed_vars)?;
//! let mut resumed_optimizer = AdamW::new_lr(resumed_vars.all_vars(), 1e-3)?;
//! let found = manager.resume()?.expect("a checkpoint was saved").checkpoint;
//! let strict = MatchOptions::default();
//! let report = scai_candle::load_state_dict(&resumed_vars, &found.model_state_dict, &strict)?;
//! assert!(report.is_complete());
//! resumed_optimizer.load_state_dict(&found.optimizer_state_dict, &resumed_vars, &strict)?;
//!
//! // Both continue with the same bits.
//! train_step(&model, &mut optimizer, 1)?;
//! train_step(&resumed, &mut resumed_optimizer, found.iteration)?;
//! let bits = |net: &Net| net.fc1.weight().flatten_all()?.to_vec1::<f32>();
//! assert_eq!(bits(&resumed)?, bits(&model)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`examples/resume.rs`] is a whole training run that can be killed at any time and continues. To
//! load part of a model, or one with other names, see [`MatchOptions`]; to read a file that is not
//! in a directory of checkpoints, [`scai_checkpoint::file`]. Files that `VarMap::save` wrote are read too.
//!
//! # Names and layouts
//!
//! A tensor has the name that it has in the [`VarMap`](candle_nn::VarMap): `blocks.0.conv.weight`.
//! The layers of candle-nn have PyTorch's names and layouts: linear, convolutions, embedding, batch,
//! layer, group and RMS norm, PReLU, LSTM and GRU. PyTorch's batch norm also counts its batches,
//! and candle's does not: the counter is saved as 0 and ignored by a load.
//!
//! What is saved is the map, not the model: a tensor that a model made without its `VarBuilder` is
//! not in it.
//!
//! Element types are kept and must match in a load; [`MatchOptions::cast`] converts floating-point types.
//! Candle's `u32` is `uint32` in PyTorch, and it has no truth values: a tensor of these in a file does
//! not match a variable. The types of 6 and 4 bits, which candle cannot compute with, are an error.
//!
//! # Saving while training goes on
//!
//! Candle writes new values into the memory of a variable ([`Var::set`](candle_core::Var::set)), so
//! [`state_dict`] copies the variables. [`AdamW`] makes new moments in each step and leaves the old ones
//! as they are, so its state is not copied. While a save is under way it holds the copy of the model, and
//! the moments that have been replaced since.
//!
//! # What else a training run consists of
//!
//! A training run resumes exactly if everything it depends on is saved or follows from the iteration:
//!
//! * **Random numbers.** On the CPU candle draws from a generator of each thread that can neither be seeded
//!   nor read: `Device::set_seed` is an error. That concerns initial values, `candle_nn::Dropout` and
//!   `Tensor::rand`. On CUDA and Metal it can be seeded, and its position cannot be read. So draw
//!   batches and dropout masks from a generator of your own that is seeded by the number of the step, as
//!   the example does. Initial values matter only if a run that was killed before its first
//!   checkpoint must equal another one.
//! * **The learning rate** is saved with the optimizer. Anything else of your own: put it into
//!   [`Checkpoint::training_stats`], [`Checkpoint::metadata`] or [`Checkpoint::parts`] with
//!   [`to_value`](scai_checkpoint::value::to_value).
//! * **`candle_nn::AdamW`** hides its moments and its count of steps, so nothing can save it; [`AdamW`]
//!   computes the same bits. `candle_nn::SGD` has no state but the learning rate.
//!
//! Several models and optimizers fit into one checkpoint: the first two in its fields, the others as
//! parts of any name, `checkpoint.parts.insert("critic", scai_candle::state_dict(&critic)?)`. They are
//! loaded from `checkpoint.parts.get("critic")`.
//!
//! PyTorch's optimizers take a state over by the position of the parameters, not by name. Variables are
//! saved in the order in which they were made, so build the layers in the order of PyTorch's model;
//! scai's own loading in Python goes by name.
//!
//! The bits are equal on one machine with one build.
//!
//! [candle]: https://github.com/huggingface/candle
//! [`examples/resume.rs`]: https://example.invalid/scai/blob/main/crates/scai-candle/examples/resume.rs
//! [`MatchOptions`]: scai_checkpoint::load::MatchOptions
//! [`MatchOptions::cast`]: scai_checkpoint::load::MatchOptions::cast
//! [`Checkpoint::training_stats`]: scai_checkpoint::Checkpoint::training_stats
//! [`Checkpoint::metadata`]: scai_checkpoint::Checkpoint::metadata
//! [`Checkpoint::parts`]: scai_checkpoint::Checkpoint::parts

mod dtype;
mod optimizer;
mod saved;
mod tensor;
mod var_map;

pub use optimizer::AdamW;
pub use scai_checkpoint::load::with_param_names;
pub use scai_checkpoint::{Error, Result};
pub use var_map::{load_state_dict, state_dict};

/// The code of the page for users is run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/integrations/candle.md")]
struct Page;
