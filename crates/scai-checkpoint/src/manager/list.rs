//! What a directory of checkpoints holds.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::ErrorKind;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::name;
use super::verify::Condition;
use crate::codec::torch::{Manifest, TorchFile, Unprotected, peek};
use crate::error::{Error, Result};
use crate::store::{Entry, Store};
use crate::value::Value;

/// A checkpoint in a directory, as a glance shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// The file's name.
    pub name: String,
    /// The iteration in its name.
    pub iteration: u64,
    /// Bytes of the file.
    pub size: u64,
    /// When it was saved, ISO 8601 with offset, where the file says so.
    pub timestamp: Option<String>,
    /// The statistics that are short.
    pub training_stats: Map<String, Json>,
    /// The metadata that are short.
    pub metadata: Map<String, Json>,
    /// It is not pruned.
    pub pinned: bool,
    /// It is the newest.
    pub latest: bool,
    /// What is wrong with it at first sight. A glance reads the beginning only: `None` does not
    /// mean that the file is sound.
    pub problem: Option<String>,
    /// What the problem makes of the file: it is damaged, needs code, is not a checkpoint.
    pub condition: Option<Condition>,
}

impl Listed {
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

/// Lists the checkpoints among `entries`, by iteration.
pub(super) fn list(store: &dyn Store, entries: &[Entry]) -> Vec<Listed> {
    let mut found: Vec<Listed> = glances(store, entries).collect();
    found.reverse();
    if let Some(newest) = found.last_mut() {
        newest.latest = true;
    }
    found
}

/// The newest of the checkpoints among `entries`. Opens no other.
pub(super) fn latest(store: &dyn Store, entries: &[Entry]) -> Option<Listed> {
    glances(store, entries).next().map(|newest| Listed { latest: true, ..newest })
}

/// Glances at the checkpoints among `entries`, newest first.
fn glances(store: &dyn Store, entries: &[Entry]) -> impl Iterator<Item = Listed> {
    let names: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let mut found: Vec<(u64, &Entry)> =
        entries.iter().filter_map(|entry| Some((name::iteration(&entry.name)?, entry))).collect();
    found.sort_by_key(|(iteration, _)| Reverse(*iteration));
    found.into_iter().filter_map(move |(iteration, entry)| {
        let pinned = names.contains(name::pin(&entry.name).as_str());
        look(store, entry, iteration, pinned)
    })
}

/// A glance at a checkpoint; nothing where it is gone by now.
fn look(store: &dyn Store, entry: &Entry, iteration: u64, pinned: bool) -> Option<Listed> {
    let mut listed = Listed {
        name: entry.name.clone(),
        iteration,
        size: entry.len,
        timestamp: None,
        training_stats: Map::new(),
        metadata: Map::new(),
        pinned,
        latest: false,
        problem: None,
        condition: None,
    };
    match manifest(store, &entry.name) {
        Ok(manifest) => {
            if manifest.iteration.is_some_and(|inside| u64::try_from(inside) != Ok(iteration)) {
                listed.problem = manifest
                    .iteration
                    .map(|inside| format!("it is of iteration {inside}, says the file"));
                listed.condition = Some(Condition::NotACheckpoint);
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

/// The manifest at the start of the file, or one made of the state tree where torch wrote it.
fn manifest(store: &dyn Store, name: &str) -> Result<Manifest> {
    let file = store.open(name).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: name.to_owned() },
        _ => Error::io("open", error),
    })?;
    match peek(&*file)? {
        Some(manifest) => Ok(manifest),
        None => {
            let tree = TorchFile::open(file, Unprotected::Accept)?.tree()?;
            let iteration = tree.as_dict().and_then(|top| top.get("iteration"));
            let mut manifest = Manifest::new(&tree);
            manifest.iteration = iteration.map_or(Ok(None), Value::whole_number)?;
            Ok(manifest)
        }
    }
}
