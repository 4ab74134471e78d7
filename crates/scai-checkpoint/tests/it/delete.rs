//! Deleting one checkpoint, finding the best one, and waiting for saves in the background.

use std::time::Duration;

use scai_checkpoint::retention::Goal;
use scai_checkpoint::{Checkpoint, CheckpointManager, Dict, Error, Options, Value};

fn manager(directory: &tempfile::TempDir) -> CheckpointManager {
    CheckpointManager::create(directory.path(), Options::default()).unwrap()
}

fn checkpoint(iteration: u64, loss: Option<f64>) -> Checkpoint {
    let mut checkpoint = Checkpoint::new(iteration, Dict::new(), Dict::new());
    if let Some(loss) = loss {
        let statistics: Dict = [("loss", Value::Float(loss))].into_iter().collect();
        checkpoint.training_stats = Value::Dict(statistics);
    }
    checkpoint
}

fn names(directory: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".pt"))
        .collect();
    names.sort();
    names
}

fn iteration_of_latest(directory: &tempfile::TempDir) -> u64 {
    let manager = manager(directory);
    manager.load("latest.pt", scai_checkpoint::manager::Residency::Memory).unwrap().iteration
}

#[test]
fn latest_leads_to_the_newest_that_is_left_and_goes_with_the_last_one() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(&directory);
    for iteration in 1..=3 {
        writer.save(checkpoint(iteration, None)).unwrap();
    }
    writer.delete(3).unwrap();
    assert_eq!(names(&directory), ["checkpoint_iter_1.pt", "checkpoint_iter_2.pt", "latest.pt"]);
    assert_eq!(iteration_of_latest(&directory), 2);
    assert_eq!(writer.resume().unwrap().unwrap().checkpoint.iteration, 2);
    writer.delete("checkpoint_iter_1.pt").unwrap();
    assert_eq!(iteration_of_latest(&directory), 2);
    writer.delete(2).unwrap();
    assert_eq!(names(&directory), [""; 0]);
    assert!(writer.resume().unwrap().is_none());
}

#[test]
fn what_is_missing_pinned_or_no_checkpoint_is_not_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(&directory);
    writer.save(checkpoint(1, None)).unwrap();
    writer.save(checkpoint(2, None)).unwrap();
    writer.pin(1).unwrap();
    let before = names(&directory);
    assert!(matches!(writer.delete(7), Err(Error::NotFound { .. })));
    let pinned = writer.delete(1).unwrap_err().to_string();
    assert!(pinned.contains("checkpoint_iter_1.pt") && pinned.contains("unpin"), "{pinned}");
    assert!(matches!(writer.delete("latest.pt"), Err(Error::Invalid(_))));
    assert_eq!(names(&directory), before);
    writer.unpin(1).unwrap();
    writer.delete(1).unwrap();
    assert_eq!(names(&directory), ["checkpoint_iter_2.pt", "latest.pt"]);
}

#[test]
fn a_state_of_its_own_under_the_name_latest_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(&directory);
    writer.save(checkpoint(1, None)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    manager(&elsewhere).save(checkpoint(9, None)).unwrap();
    let latest = directory.path().join("latest.pt");
    std::fs::remove_file(&latest).unwrap();
    std::fs::copy(elsewhere.path().join("checkpoint_iter_9.pt"), &latest).unwrap();
    writer.delete(1).unwrap();
    assert_eq!(names(&directory), ["latest.pt"]);
    assert_eq!(iteration_of_latest(&directory), 9);
}

#[test]
fn superseded_checkpoints_can_be_deleted_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(&directory);
    for iteration in 1..=3 {
        writer.save(checkpoint(iteration, None)).unwrap();
    }
    writer.rollback(1).unwrap();
    writer.delete(3).unwrap();
    // The number is free: a later save of it is not superseded.
    writer.save(checkpoint(3, None)).unwrap();
    let superseded: Vec<(u64, bool)> =
        writer.list().unwrap().iter().map(|listed| (listed.iteration, listed.superseded)).collect();
    assert_eq!(superseded, [(1, false), (2, true), (3, false)]);
}

#[test]
fn the_best_is_the_one_that_retention_keeps_as_the_best() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(&directory);
    let best = |goal| writer.best("loss", goal).unwrap().map(|listed| listed.iteration);
    assert_eq!(best(Goal::Min), None);
    let losses = [Some(0.5), Some(0.2), None, Some(f64::NAN), Some(0.9), Some(0.1)];
    for (iteration, loss) in (1..).zip(losses) {
        writer.save(checkpoint(iteration, loss)).unwrap();
    }
    assert_eq!((best(Goal::Min), best(Goal::Max)), (Some(6), Some(5)));
    writer.rollback(5).unwrap();
    assert_eq!((best(Goal::Min), best(Goal::Max)), (Some(2), Some(5)));
    assert_eq!(writer.best("accuracy", Goal::Max).unwrap(), None);
    assert!(matches!(writer.best("", Goal::Max), Err(Error::Invalid(_))));
}

#[test]
fn unfinished_saves_can_be_waited_for_without_asking_how_they_ended() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(&directory);
    assert!(writer.wait_for_saves(0, Duration::ZERO));
    let (go, held) = std::sync::mpsc::channel::<()>();
    let approve = move || {
        let _ = held.recv();
        Err(Error::Cancelled)
    };
    let first = writer.save_in_background_if(checkpoint(1, None), approve).unwrap();
    assert!(!writer.wait_for_saves(0, Duration::from_millis(50)));
    assert!(writer.wait_for_saves(1, Duration::ZERO));
    drop(go);
    assert!(writer.wait_for_saves(0, Duration::from_secs(60)));
    assert!(first.is_done());
    // The failure is still to be reported.
    assert!(matches!(writer.flush(), Err(Error::Background(_))));
}

#[test]
fn a_path_into_another_directory_never_means_a_file_of_this_one() {
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (writer, elsewhere) = (manager(&mine), manager(&other));
    for iteration in [1, 2] {
        writer.save(checkpoint(iteration, None)).unwrap();
        elsewhere.save(checkpoint(iteration, None)).unwrap();
    }
    let path = other.path().join("checkpoint_iter_1.pt");
    assert!(matches!(writer.delete(&path), Err(Error::Invalid(_))));
    assert!(matches!(writer.pin(&path), Err(Error::Invalid(_))));
    assert!(matches!(writer.unpin(&path), Err(Error::Invalid(_))));
    assert!(matches!(writer.delete("/nonexistent/checkpoint_iter_1.pt"), Err(Error::Invalid(_))));
    assert_eq!(names(&mine), ["checkpoint_iter_1.pt", "checkpoint_iter_2.pt", "latest.pt"]);
    // By another way to the directory it is the same one.
    let link = other.path().join("link");
    std::os::unix::fs::symlink(mine.path(), &link).unwrap();
    writer.delete(link.join("checkpoint_iter_1.pt")).unwrap();
    writer.delete(mine.path().join(".").join("checkpoint_iter_2.pt")).unwrap();
    assert_eq!(names(&mine), [""; 0]);
}

#[test]
fn another_name_of_the_newest_checkpoint_is_not_pinned() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(&directory);
    writer.save(checkpoint(1, None)).unwrap();
    let error = writer.pin("latest.pt").unwrap_err().to_string();
    assert!(error.contains("an alias of the newest checkpoint"), "{error}");
    assert!(!directory.path().join("latest.pt.pinned").exists());
}
