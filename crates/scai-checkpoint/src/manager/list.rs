//! What a directory of checkpoints holds.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::{CheckpointManager, Shared, name};
use crate::checkpoint::iteration_in;
use crate::codec::torch::{Fields, Manifest, TorchFile, Unprotected, peek};
use crate::codec::{dcp, read_commit};
use crate::error::{Error, Place, Result};
use crate::retention::{Candidate, Goal, Reason, Retention, Rule};
use crate::store::{Entry, Store};
use crate::verify::Condition;

/// A checkpoint in a directory, as far as the beginning of its file shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// The file's name.
    pub name: String,
    /// The iteration in its name; for a `latest.pt` without any other checkpoint, the one in the file.
    pub iteration: u64,
    /// Bytes of the file.
    pub size: u64,
    /// When it was saved, ISO 8601 with offset, if the file says so.
    pub timestamp: Option<String>,
    /// The statistics that are short.
    pub training_stats: Fields,
    /// The metadata that are short.
    pub metadata: Fields,
    /// It is pinned: prune never deletes it.
    pub pinned: bool,
    /// It is the newest, of those that are not superseded.
    pub latest: bool,
    /// A rollback went past it: no resume uses it unless asked to, and it is deleted only on request.
    pub superseded: bool,
    /// What is wrong with it. Only the beginning is read: `None` does not mean that the file is sound.
    pub problem: Option<String>,
    /// What the problem means for the file: it is damaged, needs code, is not a checkpoint.
    pub condition: Option<Condition>,
}

impl Listed {
    /// What retention knows of it.
    pub(super) fn candidate(&self) -> Candidate {
        let statistics = &self.training_stats;
        Candidate {
            iteration: self.iteration,
            saved_at: self.saved_at(),
            pinned: self.pinned,
            damaged: self.problem.is_some(),
            superseded: self.superseded,
            saved_here: None,
            statistics: statistics
                .names()
                .filter_map(|name| Some((name.to_owned(), statistics.number(name)?)))
                .collect(),
        }
    }

    /// When it was saved, in seconds since 1970.
    pub fn saved_at(&self) -> Option<i64> {
        let text = self.timestamp.as_deref()?;
        let time = text.parse::<jiff::Timestamp>().ok();
        // Python's `datetime.now().isoformat()` has no offset: it is the local time.
        let local = || {
            let time = text.parse::<jiff::civil::DateTime>().ok()?;
            Some(time.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp())
        };
        time.or_else(local).map(jiff::Timestamp::as_second)
    }
}

impl CheckpointManager {
    /// The best checkpoint by a statistic, as [`Rule::Best`] has it; `None` if none has the statistic as
    /// a number. Damaged and superseded ones are not counted. It is not verified.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `statistic`, if it cannot be the name of one; as
    /// [`CheckpointManager::list`].
    pub fn best(&self, statistic: &str, goal: Goal) -> Result<Option<Listed>> {
        let goal = if goal == Goal::Min { "min" } else { "max" };
        let rule: Retention = format!("best:{statistic}:{goal}:1").parse()?;
        let mut listed = self.list()?;
        let candidates: Vec<Candidate> = listed.iter().map(Listed::candidate).collect();
        let reasons = rule.decide(&candidates, 0);
        let is_best = |reason: &Reason| matches!(reason, Reason::Rule(Rule::Best { .. }, 1));
        let best = reasons.iter().position(|reasons| reasons.iter().any(is_best));
        Ok(best.map(|best| listed.swap_remove(best)))
    }
}

impl Shared {
    /// Lists the checkpoints among `entries`, by iteration.
    ///
    /// An unusable record of superseded checkpoints is reported at the newest: one file does not
    /// make listing fail.
    pub(super) fn list_of(
        &self,
        entries: &[Entry],
        superseded: Result<BTreeSet<String>>,
    ) -> Vec<Listed> {
        let (superseded, unusable) = match superseded {
            Ok(superseded) => (superseded, None),
            Err(error) => (BTreeSet::new(), Some(error)),
        };
        let mut found: Vec<Listed> = glances(&*self.store, entries, &superseded).collect();
        found.reverse();
        let newest = found.iter_mut().rev().find(|listed| !listed.superseded);
        if let Some(newest) = newest {
            newest.latest = true;
            if let Some(error) = unusable {
                newest.problem.get_or_insert(error.to_string());
                newest.condition.get_or_insert(Condition::Unreadable);
            }
        }
        found
    }

    /// The newest of the checkpoints among `entries` that is not superseded. Opens no other file.
    pub(super) fn latest_of(&self, entries: &[Entry]) -> Result<Option<Listed>> {
        let superseded = self.superseded()?;
        let newest = glances(&*self.store, entries, &superseded).find(|listed| !listed.superseded);
        Ok(newest.map(|newest| Listed { latest: true, ..newest }))
    }
}

/// The checkpoints among `entries` by their names, newest first. `latest.pt` is one if there is no other.
fn glances(
    store: &dyn Store,
    entries: &[Entry],
    superseded: &BTreeSet<String>,
) -> impl Iterator<Item = Listed> {
    let found = name::checkpoints(entries);
    let lens: HashMap<&str, u64> =
        entries.iter().map(|entry| (entry.name.as_str(), entry.len)).collect();
    let alone = found.is_empty() && lens.contains_key(name::LATEST);
    let alone = alone.then(|| Glance {
        name: name::LATEST.to_owned(),
        iteration: None,
        len: lens.get(name::LATEST).copied().unwrap_or_default(),
        pinned: false,
        superseded: false,
    });
    let found = found.into_iter().rev().map(move |named| Glance {
        iteration: Some(named.iteration),
        len: lens.get(named.name.as_str()).copied().unwrap_or_default(),
        pinned: lens.contains_key(name::pin(&named.name).as_str()),
        superseded: superseded.contains(&named.name),
        name: named.name,
    });
    found.chain(alone).filter_map(move |glance| glance.look(store))
}

/// What the names in a directory say about a checkpoint.
struct Glance {
    name: String,
    iteration: Option<u64>,
    len: u64,
    pinned: bool,
    superseded: bool,
}

impl Glance {
    /// Opens the file; `None` if it no longer exists.
    fn look(self, store: &dyn Store) -> Option<Listed> {
        let Self { name, iteration, len, pinned, superseded } = self;
        let mut listed = Listed {
            name,
            iteration: iteration.unwrap_or_default(),
            size: len,
            timestamp: None,
            training_stats: Fields::default(),
            metadata: Fields::default(),
            pinned,
            latest: false,
            superseded,
            problem: None,
            condition: None,
        };
        if name::is_group(&listed.name) {
            listed.size += shards_size(store, &listed.name);
        }
        match manifest(store, &listed.name) {
            Ok(manifest) => {
                let inside = manifest.iteration.map(u64::try_from);
                match (iteration, inside) {
                    (Some(named), Some(inside)) if inside != Ok(named) => {
                        let inside = manifest.iteration.unwrap_or_default();
                        listed.problem = Some(other_iteration(named, inside).to_string());
                        listed.condition = Some(Condition::NotACheckpoint);
                    }
                    (None, Some(Ok(inside))) => listed.iteration = inside,
                    _ => {}
                }
                listed.timestamp = manifest.timestamp;
                listed.training_stats = manifest.training_stats;
                listed.metadata = manifest.metadata;
            }
            Err(Error::NotFound { .. }) => return None,
            Err(error) => {
                listed.condition = Some(Condition::of(&error));
                listed.problem = Some(error.to_string());
            }
        }
        Some(listed)
    }
}

/// Bytes of the files of a directory of shards, as far as its commit tells.
fn shards_size(store: &dyn Store, name: &str) -> u64 {
    let commit = store.open(name).ok().and_then(|head| read_commit(&*head).ok());
    commit.map_or(0, |commit| commit.files.values().map(|bound| bound.size).sum())
}

/// The name of a checkpoint and its content have different iterations.
pub(super) fn other_iteration(named: u64, inside: i64) -> Error {
    Error::unsupported(
        Place::default(),
        format!("its name says iteration {named}, but the file says {inside}"),
        format!(
            "rename it to `{}`, or load it by its path",
            name::checkpoint(inside.unsigned_abs())
        ),
    )
}

/// The manifest at the start of the file, or one made from the state tree if torch wrote it.
pub(super) fn manifest(store: &dyn Store, name: &str) -> Result<Manifest> {
    let file = store.open(name).map_err(Error::without_path)?;
    if name::is_group(name) {
        return dcp::peek(file).map_err(Error::without_path);
    }
    match peek(&*file)? {
        Some(manifest) => Ok(manifest),
        None => {
            let file = TorchFile::open(file, Unprotected::Accept)?;
            let tree = file.tree()?;
            let mut manifest = Manifest::new(&tree, file.origin());
            manifest.iteration = iteration_in(&tree)?;
            Ok(manifest)
        }
    }
}
