//! Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently
//! wrong.
//!
//! A [`CheckpointManager`] saves and restores the whole state of a training run in a directory: one
//! `checkpoint_iter_{N}.pt` for each iteration that was saved, and `latest.pt`. `torch.load` opens
//! the files with its safe default.
//!
//! ```
//! use scai_checkpoint::{Checkpoint, CheckpointManager, Dict, Options, Tensor};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let directory = directory.path().join("run");
//! let options = Options::default().retention("last:3, best:loss:min".parse()?);
//! let manager = CheckpointManager::create(&directory, options)?;
//!
//! // Go on from the newest checkpoint that is sound, if there is one.
//! let (first, mut weight) = match manager.resume()? {
//!     Some(resumed) => {
//!         let checkpoint = resumed.checkpoint;
//!         let saved = checkpoint.model_state_dict.lookup("fc.weight").and_then(|w| w.as_tensor());
//!         (checkpoint.iteration + 1, saved.expect("saved below").to_vec::<f32>()?)
//!     }
//!     None => (1, vec![0.0; 4]),
//! };
//! for iteration in first..first + 3 {
//!     weight.iter_mut().for_each(|w| *w += 0.5); // a step of training
//!     let fc = Tensor::from_vec(vec![2, 2], weight.clone())?;
//!     let model: Dict = [("fc.weight", fc)].into_iter().collect();
//!     let mut checkpoint = Checkpoint::new(iteration, model, Dict::new());
//!     checkpoint.training_stats = Dict::from_iter([("loss", 1.0 / iteration as f64)]).into();
//!     let saved = manager.save(checkpoint)?; // durable when it returns
//!     assert!(saved.path.ends_with(format!("checkpoint_iter_{iteration}.pt")));
//! }
//! # Ok::<(), scai_checkpoint::Error>(())
//! ```
//!
//! # What is promised
//!
//! 1. A save that has returned survives `kill -9`, a power loss, and a full or failing disk; until it
//!    returns, the previous one is still there. [`store`] has the protocol, and what a store has to
//!    guarantee.
//! 2. Nothing damaged is loaded: every byte is covered by a digest, which is checked before the byte is
//!    used. A sound file is never reported as damaged; the [`Error`] says what is wrong instead.
//! 3. The files are real PyTorch files: a zip archive with a pickle, as `torch.save` writes it. The
//!    bytes are in [`codec::torch`]; safetensors is in [`codec::safetensors`].
//! 4. A load changes everything or nothing: [`load`] matches names and shapes before anything is touched.
//!
//! # Where things are
//!
//! | module | for |
//! |---|---|
//! | [`manager`] | a directory of checkpoints: save, load, list, verify, prune, resume |
//! | [`retention`] | which checkpoints to keep: `last:3, every:1000, within:2d, best:loss:min:2` |
//! | [`load`](mod@load) | a saved state and the model it is loaded into: strict, partial, renamed |
//! | [`value`], [`tensor`] | the state tree, which serde turns Rust structs into, and its tensors |
//! | [`file`](mod@file), [`codec`] | one file anywhere, in any format; the formats |
//! | [`folder`] | a directory of files that others write, committed as one |
//! | [`verify`](mod@verify) | what is wrong with a file, in one word and in full |
//! | [`store`] | where files are kept; how to write your own store |
//! | [`error`] | what can go wrong, by what can be done about it |
//! | [`memory`] | out of memory as an error instead of an abort |
//!
//! Saves in the background ([`CheckpointManager::save_in_background`]), progress and cancellation
//! ([`file::ReadOptions`]) and loads that leave tensors on disk ([`manager::Residency`]) are options of
//! these calls. An adapter converts a framework's model into a [`Dict`] and back: `scai-burn` is one.

#[cfg(target_endian = "big")]
compile_error!(
    "scai-checkpoint writes tensors as they lie in memory and needs a little-endian machine"
);

mod checkpoint;
pub mod codec;
mod dtype;
pub mod error;
pub mod file;
pub mod folder;
pub mod load;
pub mod manager;
pub mod memory;
mod read_options;
mod report;
pub mod retention;
mod sealed;
pub mod shards;
pub mod store;
pub mod tensor;
mod threads;
mod timeline;
pub mod value;
pub mod verify;
mod writer;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use manager::{CheckpointManager, Options, Resumed};
pub use retention::Retention;
pub use tensor::{DType, Tensor};
pub use value::{Dict, Value};
pub use writer::{SaveHandle, Saved};

/// Steps of the commit protocol, contract tests, a simulated disk and fault injection, for tests.
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::folder::{commit_in, verify_directory};
    pub use crate::store::commit::{
        lock, point, publish, publish_child, publish_entry, publish_in_child, remove_child_durably,
        remove_durably, set_aside, sweep_children,
    };
    pub use crate::store::contract::{check_directory, check_store};
    pub use crate::store::disk::{CrashReport, CrashState, Ledger, SimulatedDisk};
    pub use crate::store::fault::{Effect, Failure, Fault, FaultDirectory, Op, Times};
}

/// Bytes that one digest covers. Damage is located to this size.
pub const CHUNK_SIZE: usize = 64 * 1024;
