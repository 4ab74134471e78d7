//! What a prune does.

use scai_checkpoint::manager::Verdict;
use serde::Serialize;

/// What a prune does, or would do, with one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// The file's name.
    pub name: String,
    /// Its iteration.
    pub iteration: u64,
    /// Its bytes.
    pub size: u64,
    /// It is kept.
    pub stays: bool,
    /// Why it is kept, in words.
    pub reasons: Vec<String>,
    /// It was deleted.
    pub removed: bool,
}

/// The report of a prune, from what the manager returned.
pub fn prune_report(verdicts: &[Verdict]) -> Vec<PruneReport> {
    let report = |verdict: &Verdict| PruneReport {
        name: verdict.checkpoint.name.clone(),
        iteration: verdict.checkpoint.iteration,
        size: verdict.checkpoint.size,
        stays: verdict.stays(),
        reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
        removed: verdict.removed,
    };
    verdicts.iter().map(report).collect()
}
