//! Whether a checkpoint is complete: eight short checks, and everything that is wrong.

use std::sync::Arc;

use serde::Serialize;

use crate::checkpoint::{Checkpoint, iteration_in};
use crate::codec::{CheckpointFile, Foreign, Origin, Protection};
use crate::error::{Error, Place, Result};
use crate::read_options::ReadOptions;
use crate::store::ReadAt;

/// The results of the short checks of a checkpoint.
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
    /// The results of the short checks.
    pub answers: Answers,
    /// What protects the file, if it could be opened.
    pub protection: Option<Protection>,
    /// Where its bytes come from, as far as it says so.
    pub origin: Origin,
    /// The iteration recorded in it.
    pub iteration: Option<i64>,
    /// Bytes of the file; of an index, those of its shards.
    pub len: u64,
    /// Everything that is wrong: each with the affected tensors and the byte range.
    pub damage: Vec<Error>,
    /// Why no state can be built from a file whose bytes are right: it needs code, is not a
    /// checkpoint, or holds something unknown.
    pub obstacle: Option<Error>,
}

/// The condition of a file, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// Every byte was checked and is right, and a state can be built from it.
    Sound,
    /// It carries no checksums, so damage could not be detected.
    Unprotected,
    /// Its bytes are not those that were written.
    Damaged,
    /// Nothing is wrong with it, but objects in it need code to be run.
    NeedsCode,
    /// Nothing is wrong with it, but it holds something that this crate does not read.
    Unsupported,
    /// It is not a checkpoint.
    NotACheckpoint,
    /// It could not be read, or there is no such file; nothing is known about it.
    Unreadable,
}

impl Condition {
    /// The name that scripts see: `needs_code`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Unprotected => "unprotected",
            Self::Damaged => "damaged",
            Self::NeedsCode => "needs_code",
            Self::Unsupported => "unsupported",
            Self::NotACheckpoint => "not_a_checkpoint",
            Self::Unreadable => "unreadable",
        }
    }

    /// The condition of the file that an error is about.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Damaged { .. } => Self::Damaged,
            Error::Unprotected { .. } => Self::Unprotected,
            Error::NeedsCode { .. } => Self::NeedsCode,
            Error::Unsupported { .. } => Self::Unsupported,
            Error::NotACheckpoint { .. } | Error::MissingField { .. } => Self::NotACheckpoint,
            _ => Self::Unreadable,
        }
    }
}

impl Verification {
    /// The report of a file that cannot be read.
    fn failed(error: Error) -> Self {
        Self {
            answers: Answers::default(),
            protection: None,
            origin: Origin::Known,
            iteration: None,
            len: 0,
            damage: vec![error],
            obstacle: None,
        }
    }

    /// Whether every byte was checked and is right, and a state can be built from the file.
    pub fn is_sound(&self) -> bool {
        self.condition() == Condition::Sound
    }

    /// What was found, in one word: the worst of it.
    pub fn condition(&self) -> Condition {
        let found = || self.damage.iter().chain(&self.obstacle).map(Condition::of);
        let order = [Condition::Damaged, Condition::Unreadable];
        order
            .into_iter()
            .find(|&worst| found().any(|found| found == worst))
            .or_else(|| self.obstacle.as_ref().map(Condition::of))
            .or_else(|| found().next())
            .unwrap_or(Condition::Sound)
    }
}

/// Verifies a file that was opened; one that does not exist is reported, not an error.
///
/// # Errors
/// Those of opening it, and as [`verify`].
pub(crate) fn verify_opened<'o>(
    opened: Result<Arc<dyn ReadAt>>,
    options: impl Into<ReadOptions<'o>>,
) -> Result<Verification> {
    match opened {
        Ok(file) => verify(file, options),
        Err(error @ Error::NotFound { .. }) => Ok(Verification::failed(error)),
        Err(error) => Err(error),
    }
}

/// Verifies an open file.
///
/// # Errors
/// Only [`Error::Cancelled`]: whatever is wrong with the file is in the report.
pub fn verify<'o>(
    file: Arc<dyn ReadAt>,
    options: impl Into<ReadOptions<'o>>,
) -> Result<Verification> {
    let options = options.into();
    let mut verification = Verification {
        answers: Answers { exists: true, ..Answers::default() },
        protection: None,
        origin: Origin::Known,
        iteration: None,
        len: file.len(),
        damage: Vec::new(),
        obstacle: None,
    };
    if let Err(error) = look(&mut verification, file, options) {
        if error.is_obstacle() {
            verification.obstacle = Some(error);
        } else {
            verification.damage.push(error);
        }
    }
    options.check()?;
    verification.answers.readable = verification.is_sound();
    Ok(verification)
}

fn look(
    verification: &mut Verification,
    file: Arc<dyn ReadAt>,
    options: ReadOptions<'_>,
) -> Result<()> {
    let path = file.path();
    let opened = CheckpointFile::open_damaged(file)?;
    verification.protection = Some(opened.protection());
    verification.origin = opened.origin();
    verification.len = opened.len();
    verification.damage = opened.verify(options);
    let tree = opened.tree();
    if opened.protection() == Protection::None {
        verification
            .damage
            .push(Error::Unprotected { place: Box::new(Place { path, ..Place::default() }) });
    }
    let tree = match tree {
        // What is in it can be reported nevertheless.
        Err(error @ Error::NeedsCode { .. }) => {
            verification.obstacle = Some(error);
            opened.tree_with(Foreign::StandIn)
        }
        tree => tree,
    };
    // Damage of the pickle has been found already, by its digest.
    let tree = match tree {
        Ok(tree) => tree,
        Err(error) if error.is_damage() && !verification.damage.is_empty() => return Ok(()),
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
    verification.iteration = iteration_in(&tree)?;
    Ok(())
}
