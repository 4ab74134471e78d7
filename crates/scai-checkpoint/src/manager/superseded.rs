//! Rollback: which checkpoints a run went back past.
//!
//! A resume from an older checkpoint, on request, writes the file `superseded.json`, which names
//! the checkpoints of later iterations. They are kept, but no resume uses them unless asked to, and
//! no rule counts them. One that a later save replaces is an ordinary checkpoint again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Shared;
use super::lock::Operation;
use crate::checkpoint::now_iso;
use crate::error::{Error, Result};
use crate::store::Publication;

/// The file that names the superseded checkpoints.
pub(crate) const RECORD: &str = "superseded.json";

const VERSION: u32 = 1;
/// A name has about 30 bytes; a longer file was not written by this crate.
const LONGEST: u64 = 64 << 20;

/// What the file holds, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The iteration of the last rollback.
    resumed_at: u64,
    /// When.
    timestamp: String,
    superseded: BTreeSet<String>,
}

impl Shared {
    /// The names of the superseded checkpoints; empty if there was no rollback.
    pub(super) fn superseded(&self) -> Result<BTreeSet<String>> {
        Ok(self.record()?.map(|record| record.superseded).unwrap_or_default())
    }

    fn record(&self) -> Result<Option<Record>> {
        let at = |error| Error::io("read", error).at_path(self.path(RECORD));
        let file = match self.store.open(RECORD) {
            Err(Error::NotFound { .. }) => return Ok(None),
            file => file?,
        };
        let mut bytes = vec![0; file.len().min(LONGEST) as usize];
        file.read_at(0, &mut bytes).map_err(at)?;
        let unusable = |why: String| {
            Error::invalid(format!(
                "`{}` cannot be used: {why}; it lists the checkpoints superseded by a rollback: \
                 delete it to make all of them count again",
                self.path(RECORD).display()
            ))
        };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        if record.version > VERSION {
            let why = format!(
                "it has version {}, but this program reads versions up to {VERSION}",
                record.version
            );
            return Err(unusable(why));
        }
        Ok(Some(record))
    }

    /// Records that the run continues from `iteration`: later checkpoints are superseded from now
    /// on, this one is not, and earlier ones are as they were.
    pub(super) fn supersede_above(&self, iteration: u64, operation: &Operation<'_>) -> Result<()> {
        let entries = self.entries()?;
        let before = self.superseded()?;
        let superseded: BTreeSet<String> = super::name::checkpoints(&entries)
            .into_iter()
            .filter(|named| {
                named.iteration > iteration
                    || named.iteration < iteration && before.contains(&named.name)
            })
            .map(|named| named.name)
            .collect();
        if superseded == before {
            return Ok(());
        }
        let record =
            Record { version: VERSION, resumed_at: iteration, timestamp: now_iso(), superseded };
        self.write(&record, operation)
    }

    /// Notes that these checkpoints were replaced or removed.
    pub(super) fn no_longer_superseded(
        &self,
        names: &[&str],
        operation: &Operation<'_>,
    ) -> Result<()> {
        let Some(mut record) = self.record()? else { return Ok(()) };
        let before = record.superseded.len();
        record.superseded.retain(|name| !names.contains(&name.as_str()));
        if record.superseded.len() == before {
            return Ok(());
        }
        self.write(&record, operation)
    }

    fn write(&self, record: &Record, _operation: &Operation<'_>) -> Result<()> {
        // Also if it names nothing: after a power failure, a removed file may come back with any content.
        let mut bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::invalid(format!("cannot write `{RECORD}`: {error}")))?;
        bytes.push(b'\n');
        self.store.publish(Publication::of_bytes(RECORD, &bytes)).map(drop)
    }
}
