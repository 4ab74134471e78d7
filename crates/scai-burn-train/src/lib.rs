//! Checkpoints for burn's learner: the model, the optimizer and the learning rate scheduler of an epoch are
//! committed as one.
//!
//! burn saves an epoch as three files, each from a thread of its own. Each file is written safely; the three
//! together are not: a process that dies in between leaves half an epoch, which cannot be loaded, and two such
//! processes may leave an epoch that loads and whose parts do not belong together. The files have no
//! checksums. With the checkpointers of this crate
//!
//! * an epoch is there once all three records are durable, and from one moment on;
//! * nothing is loaded before every byte of all three was checked, and all three come from one commit;
//! * an epoch is deleted only when a newer one is durable;
//! * the files are those that burn writes, and burn's own checkpointers find them: leaving is one line.
//!
//! ```toml
//! [dependencies]
//! burn = { version = "0.22", features = ["train", "flex"] }
//! scai-burn-train = { path = "crates/scai-burn-train" }
//! ```
//!
//! Before:
//!
//! ```
//! # use burn::tensor::Device;
//! # mod toy { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/toy.rs")); }
//! # use toy::{data, learner};
//! # use burn::train::SupervisedTraining;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let run = tempfile::tempdir()?;
//! # let run = run.path();
//! let training = SupervisedTraining::new(run, data(), data())
//!     .with_default_checkpointers()
//!     .num_epochs(3);
//! # let training = training.with_application_logger(None);
//! let result = training.launch(learner(&Device::default().autodiff()));
//! # assert!(result.error.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! After. The `if` resumes from the newest epoch; with burn alone you have to know its number:
//!
//! ```
//! # use burn::tensor::Device;
//! # mod toy { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/toy.rs")); }
//! # use toy::{data, learner};
//! # use burn::train::SupervisedTraining;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let run = tempfile::tempdir()?;
//! # let run = run.path();
//! # for _ in 0..2 {
//! let checkpoints = run.join("checkpoint");
//! let (model, optimizer, scheduler) = scai_burn_train::checkpointers(&checkpoints)?;
//! let mut training = SupervisedTraining::new(run, data(), data())
//!     .with_custom_checkpointers(model, optimizer, scheduler)
//!     .num_epochs(3);
//! if let Some(newest) = scai_burn_train::newest(&checkpoints)? {
//!     newest.skipped.iter().for_each(|damaged| eprintln!("{damaged}"));
//!     training = training.checkpoint(newest.epoch);
//! }
//! # let training = training.with_application_logger(None);
//! let result = training.launch(learner(&Device::default().autodiff()));
//! # assert!(result.error.is_none());
//! # }
//! # assert_eq!(scai_burn_train::newest(run.join("checkpoint"))?.map(|newest| newest.epoch), Some(3));
//! # Ok(())
//! # }
//! ```
//!
//! Ask for [`newest`] whenever a training starts: it reads what is there and never starts over because of
//! damage. If all epochs are damaged it is an error, and so are epochs that burn's own checkpointers have
//! saved ([`adopt`] takes them over).
//!
//! # What is in the directory
//!
//! ```text
//! checkpoint/
//!     epoch-3/
//!         commit.json         names, lengths and digests of the three
//!         model-3.bpk         as burn writes them
//!         optim-3.bpk
//!         scheduler-3.bpk
//!     model-3.bpk             -> epoch-3/model-3.bpk, for burn's own checkpointers
//!     optim-3.bpk             -> epoch-3/optim-3.bpk
//!     scheduler-3.bpk         -> epoch-3/scheduler-3.bpk
//!     .scai.lock              of the training that writes here
//!     .scai-….tmp/            an epoch that is being saved
//! ```
//!
//! `epoch-3` is committed with [`scai_checkpoint::folder`], whose `verify` checks it. What a killed process has
//! left under temporary names is removed by the next save.
//!
//! # Errors
//!
//! burn calls the checkpointers from threads of its own. If a save or a delete fails there, burn stops the
//! training after the current step, and the error is in [`LearningResult::error`], also if it was the last
//! epoch: look at it, since `launch` returns normally. The epoch that failed is given up as a whole, and nothing
//! is deleted until a later one is committed. A restore that fails panics in burn (`Can load model
//! checkpoint.`) with the text of the error. An `AsyncCheckpointer` that you make yourself panics on its thread
//! unless you give it an interrupter.
//!
//! # What burn decides
//!
//! * **What is deleted** is up to burn's strategy. A strategy forgets when its process dies: an epoch that it
//!   had not deleted by then stays. The newest epoch, and the one the training is at, are deleted only once
//!   the next one is committed; if a strategy asks for that at the end of a training, they stay.
//! * **To go back** to epoch 5 of 9, remove the epochs after it first: [`newest`] goes by the number.
//!
//! # What burn does not save
//!
//! * **Random numbers**: burn cannot read the state of its generators. After a restart, dropout and random
//!   initialisation go on with other numbers. `Device::seed` makes them repeatable only from the start.
//! * **The order of the data**: a data loader that shuffles begins its order anew in each process, so a
//!   resumed training sees the orders of the first epochs again. A seed that depends on the epoch it resumes from
//!   (`shuffle(seed + epoch)`) avoids the repetition.
//! * **Metrics and early stopping**: metrics are in burn's logs, not in the checkpoint, so the best epoch is
//!   known again only with a logger that keeps files (the default). Early stopping counts anew.
//! * **Running statistics** of batch norm are part of the model. burn brings them up to date when it
//!   validates, which it does before each save.
//!
//! Without random numbers and shuffling a resumed training ends with the same bits, as `tests/it/kills.rs`
//! shows.
//!
//! For a training loop of your own, `scai-burn` saves a module and an optimizer as a file that PyTorch opens.
//!
//! [`LearningResult::error`]: burn_train::LearningResult::error

mod checkpointer;
mod coordinator;
mod epochs;
mod links;
mod part;

pub use checkpointer::{EpochCheckpointer, checkpointers};
pub use epochs::{Newest, adopt, newest};
pub use scai_checkpoint::{Error, Result};
