//! Whether a checkpoint is whole: eight short answers, and everything that is wrong.

use std::sync::Arc;

use serde::Serialize;

use super::checkpoint::Checkpoint;
use crate::codec::{CheckpointFile, Protection, Unprotected};
use crate::error::{Error, Result};
use crate::store::ReadAt;
use crate::value::Value;

/// The answers to the questions one asks of a checkpoint before trusting it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct Answers {
    /// There is such a file.
    pub exists: bool,
    /// It was read whole and every digest matched.
    pub readable: bool,
    /// It has `iteration`, `model_state_dict` and `optimizer_state_dict`.
    pub has_required_fields: bool,
    /// It has `model_state_dict`.
    pub has_model_state: bool,
    /// It has `optimizer_state_dict`.
    pub has_optimizer_state: bool,
    /// It has `training_stats`.
    pub has_training_stats: bool,
    /// It has `metadata`.
    pub has_metadata: bool,
    /// It has `timestamp`.
    pub has_timestamp: bool,
}

/// The full report of a verification.
#[derive(Debug)]
pub struct Verification {
    /// The short answers.
    pub answers: Answers,
    /// What protects the file, where it could be opened.
    pub protection: Option<Protection>,
    /// The iteration it says it is of.
    pub iteration: Option<i64>,
    /// Bytes of the file.
    pub len: u64,
    /// Everything that is wrong: each with the tensors concerned and the byte range.
    pub damage: Vec<Error>,
}

impl Verification {
    /// Whether every byte was checked and nothing is wrong with the file itself.
    pub fn is_sound(&self) -> bool {
        self.answers.readable
    }
}

/// Verifies an open file; `path` is what it is called in messages.
///
/// `progress` is told how many further bytes have been checked.
pub fn verify(
    path: &str,
    file: Arc<dyn ReadAt>,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Verification {
    let mut verification = Verification {
        answers: Answers { exists: true, ..Answers::default() },
        protection: None,
        iteration: None,
        len: file.len(),
        damage: Vec::new(),
    };
    if let Err(error) = look(&mut verification, file, threads, progress) {
        verification.damage.push(error);
    }
    let damage = std::mem::take(&mut verification.damage);
    verification.damage = damage.into_iter().map(|error| error.at_path(path)).collect();
    verification.answers.readable = verification.damage.is_empty();
    verification
}

fn look(
    verification: &mut Verification,
    file: Arc<dyn ReadAt>,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let opened = CheckpointFile::open(file, Unprotected::Accept)?;
    verification.protection = Some(opened.protection());
    verification.damage = opened.verify(threads, progress);
    let tree = opened.tree();
    if opened.protection() == Protection::None {
        verification.damage.push(Error::Unprotected { place: Box::default() });
    }
    // Damage of the pickle has been found already, by its digest.
    let tree = match tree {
        Ok(tree) => tree,
        Err(_) if !verification.damage.is_empty() => return Ok(()),
        Err(error) => return Err(error),
    };
    let top = tree.as_dict();
    let has = |field: &str| top.is_some_and(|top| top.get(field).is_some());
    verification.answers = Answers {
        exists: true,
        readable: false,
        has_required_fields: Checkpoint::REQUIRED.into_iter().all(has),
        has_model_state: has("model_state_dict"),
        has_optimizer_state: has("optimizer_state_dict"),
        has_training_stats: has("training_stats"),
        has_metadata: has("metadata"),
        has_timestamp: has("timestamp"),
    };
    verification.iteration = top.and_then(|top| top.get("iteration")).and_then(Value::as_int);
    Ok(())
}
