//! Listing, showing and verifying a small directory.

use std::fs;

use scai_checkpoint::manager::Prune;
use scai_checkpoint::verify::Condition;
use scai_checkpoint::{
    Checkpoint, CheckpointManager, Dict, Error, Options, Retention, Tensor, Value,
};
use scai_inspect::verify::targets;
use scai_inspect::{File, Stats, Totals, list, prune_report, show, verify};
use serde_json::json;
use tempfile::TempDir;

/// A directory with the checkpoints of three iterations, the first of them damaged, and a text.
fn directory() -> (TempDir, CheckpointManager) {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::open(directory.path(), Options::default()).unwrap();
    for iteration in [1, 2, 3] {
        let weight = Tensor::from_vec(vec![2, 4096], vec![iteration as f32; 8192]).unwrap();
        let model: Dict = [("weight", weight.clone()), ("tied", weight)]
            .map(|(k, v)| (k.to_owned(), v))
            .into_iter()
            .collect();
        manager.save(Checkpoint::new(iteration, Value::Dict(model), Value::None)).unwrap();
    }
    let first = directory.path().join("checkpoint_iter_1.pt");
    let mut bytes = fs::read(&first).unwrap();
    bytes[8192] ^= 1;
    fs::write(&first, bytes).unwrap();
    fs::write(directory.path().join("notes.bin"), "not a checkpoint").unwrap();
    (directory, manager)
}

#[test]
fn a_listing_has_other_files_first_and_is_verified_on_request() {
    let (_directory, manager) = directory();
    let mut listing = list(&manager).unwrap();
    let json = serde_json::to_value(&listing).unwrap();
    let of =
        |key: &str| json.as_array().unwrap().iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(json!(of("iteration")), json!([null, 1, 2, 3]));
    assert_eq!(json!(of("verified")), json!([null, null, null, null]));
    assert_eq!(listing.others[0].condition, Some(Condition::NotACheckpoint));
    listing.verify(&manager, 1).unwrap();
    let verified: Vec<_> = listing.checkpoints.iter().map(|row| row.verified).collect();
    assert_eq!(verified, [Some(false), Some(true), Some(true)]);
    assert_eq!(listing.checkpoints[0].checkpoint.condition, Some(Condition::Damaged));
}

#[test]
fn a_file_or_all_files_of_a_directory_are_verified() {
    let (directory, _manager) = directory();
    let found = targets(directory.path()).unwrap();
    let conditions: Vec<_> =
        found.iter().map(|target| verify(&target.path, 1).unwrap().condition).collect();
    use Condition::*;
    assert_eq!(conditions, [Damaged, Sound, Sound, NotACheckpoint]);
    let report = verify(directory.path().join("checkpoint_iter_1.pt"), 1).unwrap();
    assert_eq!(report.damage[0].tensor.as_deref(), Some("model_state_dict.weight"));
    assert_eq!(report.damage[0].condition, Damaged);
    assert!(report.damage[0].message.contains("checkpoint_iter_1.pt"));
    assert!(report.damage[0].detail.starts_with("tensor `model_state_dict.weight` (record"));
    let missing = verify(directory.path().join("none.pt"), 1).unwrap();
    assert!(!missing.answers.exists && !missing.sound);
}

#[test]
fn a_part_of_a_file_is_shown_with_statistics() {
    let (directory, _manager) = directory();
    let file = File::open(directory.path().join("checkpoint_iter_3.pt")).unwrap();
    let options = show::Options::default().part("model_state_dict").with_stats();
    let summary = show(&file, options).unwrap();
    assert_eq!(summary.iteration, Some(3));
    assert_eq!(summary.model, Some(Totals { tensors: 1, elements: 8192, bytes: 32768 }));
    let entries: Vec<_> = summary.entries.iter().map(|entry| (entry.name(), entry.depth)).collect();
    assert_eq!(entries, [("model_state_dict", 0), ("weight", 0), ("tied", 0)]);
    let tied = &summary.entries[2];
    assert_eq!(tied.tied_to.as_deref(), Some("model_state_dict.weight"));
    let Some(Some(stats)) = &tied.stats else { panic!("{tied:?}") };
    let Stats { mean, nan, .. } = **stats;
    assert_eq!((mean, nan), (Some(3.0), 0));
    let missing = show(&file, show::Options::default().part("optimizer")).unwrap_err();
    assert!(matches!(missing, Error::Invalid(_)), "{missing}");
}

#[test]
fn a_prune_is_reported_with_its_reasons() {
    let (_directory, manager) = directory();
    let retention: Retention = "last:1".parse().unwrap();
    let verdicts = manager.prune(&retention, Prune::DryRun).unwrap();
    let reports = prune_report(&verdicts);
    let kept: Vec<_> = reports.iter().map(|report| (report.iteration, report.stays)).collect();
    assert!(kept.contains(&(2, false)) && kept.contains(&(3, true)), "{kept:?}");
    assert!(reports.iter().all(|report| report.stays != report.reasons.is_empty()));
}
