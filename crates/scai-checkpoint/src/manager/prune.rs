//! Deleting what newer checkpoints have made redundant.

use std::collections::{BTreeSet, HashSet};

use super::list::Listed;
use super::lock::Operation;
use super::{CheckpointManager, Shared, name};
use crate::error::{Error, Result};
use crate::read_options::ReadOptions;
use crate::retention::{Candidate, Reason, Retention, Rule};
use crate::store::Stamp;
use crate::value::Value;
use crate::verify::verify;

/// Whether anything is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Only reports what would be deleted.
    DryRun,
    /// Deletes.
    Remove,
}

/// What happens to superseded checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Superseded {
    Keep,
    Delete,
}

/// What retention says about a checkpoint.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// The checkpoint.
    pub checkpoint: Listed,
    /// Why it is kept; without any reason it is deleted.
    pub reasons: Vec<Reason>,
    /// It was deleted.
    pub removed: bool,
}

impl Verdict {
    /// Whether the checkpoint is kept.
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }
}

impl CheckpointManager {
    /// Deletes the checkpoints that no rule keeps, or reports which these are.
    ///
    /// A checkpoint is deleted only after those that are kept instead (the newest, the last ones, the
    /// best ones) were read from the device, in this call, and every byte was found right. One that is
    /// damaged never counts as kept, and one that is found damaged is not deleted; what is to be
    /// deleted is not read first.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process writes to the directory; [`Error::Io`] if a file cannot
    /// be deleted. The order is oldest first, so that always the newer ones are left.
    pub fn prune(&self, retention: &Retention, prune: Prune) -> Result<Vec<Verdict>> {
        self.prune_with(retention, prune, ReadOptions::default())
    }

    /// As [`CheckpointManager::prune`], with progress and cancellation.
    ///
    /// # Errors
    /// As [`CheckpointManager::prune`]; [`Error::Cancelled`], before anything is deleted.
    pub fn prune_with<'o>(
        &self,
        retention: &Retention,
        prune: Prune,
        options: impl Into<ReadOptions<'o>>,
    ) -> Result<Vec<Verdict>> {
        self.carry_out(retention, prune, Superseded::Keep, &options.into())
    }

    /// Deletes superseded checkpoints, those a rollback went past, or reports which these are.
    ///
    /// As with [`CheckpointManager::prune`], the newest one that is not superseded is read from the
    /// device first.
    ///
    /// # Errors
    /// As [`CheckpointManager::prune_with`].
    pub fn prune_superseded<'o>(
        &self,
        prune: Prune,
        options: impl Into<ReadOptions<'o>>,
    ) -> Result<Vec<Verdict>> {
        self.carry_out(&Retention::keep_all(), prune, Superseded::Delete, &options.into())
    }

    fn carry_out(
        &self,
        retention: &Retention,
        prune: Prune,
        superseded: Superseded,
        options: &ReadOptions<'_>,
    ) -> Result<Vec<Verdict>> {
        self.flush()?;
        match prune {
            Prune::DryRun => self.shared.verdicts(retention, None, superseded, options),
            Prune::Remove => {
                let operation = self.shared.writing.begin(&*self.shared.store)?;
                let verdicts = self.shared.verdicts(retention, None, superseded, options)?;
                self.shared.carry_out(verdicts, &operation)
            }
        }
    }
}

impl Shared {
    /// Deletes what the save of `saved` made redundant, within its write operation.
    pub(super) fn remove_redundant(
        &self,
        retention: &Retention,
        saved: &str,
        operation: &Operation<'_>,
    ) -> Result<Vec<Verdict>> {
        let options = ReadOptions::default();
        let verdicts = self.verdicts(retention, Some(saved), Superseded::Keep, &options)?;
        self.carry_out(verdicts, operation)
    }

    fn carry_out(
        &self,
        mut verdicts: Vec<Verdict>,
        operation: &Operation<'_>,
    ) -> Result<Vec<Verdict>> {
        for verdict in verdicts.iter_mut().filter(|verdict| !verdict.stays()) {
            let name = &verdict.checkpoint.name;
            // Pinning needs no write lease, and verifying may have taken a while.
            if self.exists(&name::pin(name))? {
                verdict.checkpoint.pinned = true;
                verdict.reasons.push(Reason::Pinned);
                continue;
            }
            self.store.remove(&[name])?;
            verdict.removed = true;
        }
        let gone = verdicts.iter().filter(|v| v.removed && v.checkpoint.superseded);
        let gone: Vec<&str> = gone.map(|verdict| verdict.checkpoint.name.as_str()).collect();
        if !gone.is_empty() {
            self.no_longer_superseded(&gone, operation)?;
        }
        Ok(verdicts)
    }

    /// Decides on each checkpoint. What is kept instead of others was read from the device; what an
    /// earlier call found is not relied on, since a device may lose bits at any time.
    fn verdicts(
        &self,
        retention: &Retention,
        saved: Option<&str>,
        superseded: Superseded,
        options: &ReadOptions<'_>,
    ) -> Result<Vec<Verdict>> {
        let entries = self.entries()?;
        // A listing can do without the record; a decision cannot.
        let mut listed = self.list_of(&entries, Ok(self.superseded()?));
        let seen = self.writing.seen();
        for listed in &mut listed {
            let known = seen.damage(&listed.name, || self.stamp(&listed.name));
            listed.problem = listed.problem.take().or_else(|| known.map(str::to_owned));
        }
        let mut candidates: Vec<Candidate> = listed
            .iter()
            .map(|listed| Candidate { saved_here: seen.saved(&listed.name), ..listed.candidate() })
            .collect();
        drop(seen);
        let mut right = HashSet::new();
        let now = jiff::Timestamp::now().as_second();
        let reasons = loop {
            let mut reasons = retention.decide(&candidates, now);
            for (listed, reasons) in listed.iter().zip(&mut reasons) {
                if superseded == Superseded::Delete {
                    reasons.retain(|reason| *reason != Reason::Superseded);
                }
                if saved == Some(&listed.name) {
                    reasons.push(Reason::JustSaved);
                }
            }
            // A checkpoint that was not verified makes nothing redundant; if one turns out to be
            // damaged, the next one takes its place.
            if reasons.iter().all(|reasons| !reasons.is_empty()) {
                break reasons;
            }
            let mut found_damage = false;
            for i in (0..listed.len()).rev() {
                let is_right = candidates[i].damaged
                    || !reasons[i].iter().any(displaces)
                    || right.contains(&i);
                if is_right {
                    continue;
                }
                match self.verify_on_device(&listed[i].name, options)? {
                    None => drop(right.insert(i)),
                    Some((damage, stamp)) => {
                        candidates[i].damaged = true;
                        let how = damage.without_path().to_string();
                        self.writing.seen().is_damaged(&listed[i].name, stamp, &how);
                        listed[i].problem = Some(how);
                        found_damage = true;
                        break;
                    }
                }
            }
            if !found_damage {
                break reasons;
            }
        };
        let verdicts = listed.into_iter().zip(reasons);
        Ok(verdicts
            .map(|(checkpoint, reasons)| Verdict { checkpoint, reasons, removed: false })
            .collect())
    }

    /// Reads every byte of a checkpoint from the device; returns the first error, and the stamp of
    /// the file that has it.
    fn verify_on_device(
        &self,
        name: &str,
        options: &ReadOptions<'_>,
    ) -> Result<Option<(Error, Option<Stamp>)>> {
        let file = match self.open(name) {
            Ok(file) => file,
            Err(gone @ Error::NotFound { .. }) => return Ok(Some((gone, None))),
            Err(error) => return Err(error),
        };
        file.forget_cached();
        let stamp = file.stamp();
        let verification = verify(file, options.or_threads(self.options.threads))?;
        let found = verification.damage.into_iter().chain(verification.obstacle).next();
        Ok(found.map(|found| (found, stamp)))
    }

    /// Warnings about statistics that no checkpoint has as a number, each given once.
    pub(super) fn missing_statistics(&self, verdicts: &[Verdict]) -> Vec<Error> {
        let reasons = verdicts.iter().flat_map(|verdict| &verdict.reasons);
        let missing: BTreeSet<&str> = reasons
            .filter_map(|reason| match reason {
                Reason::NoStatistic(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let mut seen = self.writing.seen();
        let new = missing.into_iter().filter(|name| seen.warns_first(format!("statistic {name}")));
        new.map(|name| {
            Error::invalid(format!(
                "no checkpoint has a number `{name}` in its `training_stats` (NaN does not count), \
                 so the best ones are unknown and all are kept"
            ))
        })
        .collect()
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
        self.store.remove(&stale)
    }
}

/// Rejects a statistic by which the best are kept if it is not a number.
pub(super) fn check_statistics(retention: &Retention, statistics: &Value) -> Result<()> {
    for statistic in retention.statistics() {
        let value = statistics.as_dict().and_then(|statistics| statistics.get(statistic));
        match value.map(Value::resolved) {
            None | Some(Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_)) => {}
            Some(value) if value.as_int().is_some() => {}
            Some(value) => {
                return Err(Error::invalid(format!(
                    "`training_stats.{statistic}` is a {}, but a retention rule keeps the best by \
                     it; save a single number under this name",
                    value.type_name()
                )));
            }
        }
    }
    Ok(())
}

/// Whether a checkpoint that is kept for this reason allows others to be deleted.
fn displaces(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Newest | Reason::JustSaved | Reason::Rule(Rule::Last(_) | Rule::Best { .. }, _)
    )
}
