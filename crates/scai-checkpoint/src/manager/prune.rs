//! Deleting what newer checkpoints have made redundant.

use std::collections::HashSet;

use super::list::Listed;
use super::lock::Operation;
use super::retention::{Candidate, Reason, Retention, Rule};
use super::{CheckpointManager, Shared, name};
use crate::commit;
use crate::error::{Error, Result};

/// Whether anything is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Only says what would be.
    DryRun,
    /// Deletes.
    Remove,
}

/// What retention says about a checkpoint.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// The checkpoint.
    pub checkpoint: Listed,
    /// Why it stays; it goes where there is no reason.
    pub reasons: Vec<Reason>,
    /// It was deleted.
    pub removed: bool,
}

impl Verdict {
    /// Whether the checkpoint stays.
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }
}

impl CheckpointManager {
    /// Deletes the checkpoints that no rule keeps, or says which these are.
    ///
    /// A checkpoint is deleted only after those that stay in its place (the newest, the last ones,
    /// the best ones) were read from the device and every byte was found right. Damaged ones never
    /// count as kept and are never deleted. `progress` is told how many further bytes have been
    /// checked.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process writes to the directory;
    /// [`Error::Io`] where a file cannot be deleted. The order is oldest first, so that
    /// what is left is always the newer part.
    pub fn prune(
        &self,
        retention: &Retention,
        prune: Prune,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Verdict>> {
        self.flush()?;
        match prune {
            Prune::DryRun => self.shared.verdicts(retention, None, None, progress),
            Prune::Remove => {
                let operation = self.shared.writing.begin(&*self.shared.store)?;
                self.shared.remove_redundant(retention, None, &operation, progress)
            }
        }
    }
}

impl Shared {
    /// Deletes within a writing operation; `saved` was saved by it and stays.
    pub(super) fn remove_redundant(
        &self,
        retention: &Retention,
        saved: Option<&str>,
        operation: &Operation<'_>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Verdict>> {
        let mut verdicts = self.verdicts(retention, saved, Some(operation), progress)?;
        for verdict in verdicts.iter_mut().filter(|verdict| !verdict.stays()) {
            let name = &verdict.checkpoint.name;
            // A pin asks for no right to write, and verifying may have taken a while.
            if self.exists(&name::pin(name))? {
                verdict.checkpoint.pinned = true;
                verdict.reasons.push(Reason::Pinned);
                continue;
            }
            commit::remove_durably(&*self.store, &[name])?;
            verdict.removed = true;
        }
        Ok(verdicts)
    }

    /// What is to become of each checkpoint. What an `operation` finds right on the device is not
    /// read again by a later one; without one, nothing is remembered.
    fn verdicts(
        &self,
        retention: &Retention,
        saved: Option<&str>,
        operation: Option<&Operation<'_>>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Verdict>> {
        let mut listed = self.list()?;
        let mut candidates: Vec<Candidate> = listed.iter().map(candidate).collect();
        let mut right = match operation {
            Some(_) => self.writing.verified().clone(),
            None => HashSet::new(),
        };
        let now = jiff::Timestamp::now().as_second();
        let reasons = loop {
            let mut reasons = retention.decide(&candidates, now);
            for (listed, reasons) in listed.iter().zip(&mut reasons) {
                if saved == Some(&listed.name) {
                    reasons.push(Reason::JustSaved);
                }
            }
            // Nothing is made redundant by a checkpoint that was not verified; where one turns out
            // to be damaged, the next one takes its place.
            if reasons.iter().all(|reasons| !reasons.is_empty()) {
                break reasons;
            }
            let mut found_damage = false;
            for i in (0..listed.len()).rev() {
                let is_right = candidates[i].damaged
                    || !reasons[i].iter().any(displaces)
                    || right.contains(&listed[i].name);
                if is_right {
                    continue;
                }
                match self.verify_on_device(&listed[i].name, progress)? {
                    None => drop(right.insert(listed[i].name.clone())),
                    Some(damage) => {
                        candidates[i].damaged = true;
                        listed[i].problem = Some(damage.without_path().to_string());
                        found_damage = true;
                        break;
                    }
                }
            }
            if !found_damage {
                break reasons;
            }
        };
        if operation.is_some() {
            self.writing.verified().extend(right);
        }
        let verdicts = listed.into_iter().zip(reasons);
        Ok(verdicts
            .map(|(checkpoint, reasons)| Verdict { checkpoint, reasons, removed: false })
            .collect())
    }

    /// Reads every byte of a checkpoint from the device; the first thing that is wrong with it.
    fn verify_on_device(
        &self,
        name: &str,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Error>> {
        let file = match self.open(name) {
            Ok(file) => file,
            Err(gone @ Error::NotFound { .. }) => return Ok(Some(gone)),
            Err(error) => return Err(error),
        };
        file.forget_cached();
        let verification = super::verify(&self.path(name), file, self.options.threads, progress);
        Ok(verification.damage.into_iter().next())
    }

    /// Removes the marks of pins whose checkpoint is gone.
    pub(super) fn drop_stale_pins(&self) -> Result<()> {
        let entries = self.entries()?;
        let names: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let stale: Vec<&str> = names
            .iter()
            .copied()
            .filter(|mark| name::pinned(mark).is_some_and(|name| !names.contains(name)))
            .collect();
        commit::remove_durably(&*self.store, &stale)
    }
}

/// Whether a checkpoint that is kept for this reason lets others go.
fn displaces(reason: &Reason) -> bool {
    matches!(reason, Reason::Newest | Reason::Rule(Rule::Last(_) | Rule::Best { .. }, _))
}

fn candidate(listed: &Listed) -> Candidate {
    let statistics = listed.training_stats.iter();
    Candidate {
        iteration: listed.iteration,
        saved_at: listed.saved_at(),
        pinned: listed.pinned,
        damaged: listed.problem.is_some(),
        statistics: statistics
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect(),
    }
}
