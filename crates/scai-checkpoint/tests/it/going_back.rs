//! A run that goes back: by mistake nothing is lost, on purpose it goes on from there.

use std::fs;
use std::path::Path;

use scai_checkpoint::manager::{Prune, Resume};
use scai_checkpoint::retention::Reason;
use scai_checkpoint::testing::SimulatedDisk;
use scai_checkpoint::{CheckpointManager, Error, Options, Retention};

use crate::support::over;
use crate::training::{Save, Size, name, open, save_of, save_under, state};

const SIZE: Size = Size::Tiny;

fn save(manager: &CheckpointManager, iteration: u64, writer: u64) -> Vec<String> {
    let saved = manager.save(state(Save { iteration, writer }, SIZE)).unwrap();
    saved.warnings.iter().map(ToString::to_string).collect()
}

fn keep_last(count: u64) -> Options {
    Options::default().retention(Retention::keep_last(count).unwrap())
}

/// A directory with 118, 119 and 120 of an earlier process.
fn earlier_run() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let manager = open(directory.path(), Options::default());
    for iteration in [118, 119, 120] {
        save(&manager, iteration, 1);
    }
    directory
}

fn iterations(manager: &CheckpointManager) -> Vec<u64> {
    manager.list().unwrap().iter().map(|listed| listed.iteration).collect()
}

fn latest(directory: &Path) -> Save {
    let manager = open(directory, Options::default());
    save_under(&manager, "latest.pt", SIZE).unwrap().unwrap()
}

#[test]
fn a_step_back_that_was_not_declared_deletes_nothing_and_is_warned_of_once() {
    let directory = earlier_run();
    let manager = open(directory.path(), keep_last(3));
    let warnings = save(&manager, 50, 2);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("iteration 50") && warnings[0].contains(&name(120)));
    assert_eq!(save(&manager, 51, 2), [""; 0]);
    assert_eq!(iterations(&manager), [50, 51, 118, 119, 120]);
    for iteration in 52..=54 {
        save(&manager, iteration, 2);
    }
    assert_eq!(iterations(&manager), [52, 53, 54, 118, 119, 120]);
    assert_eq!(manager.resume().unwrap().unwrap().checkpoint.iteration, 120);
}

#[test]
fn a_step_back_within_one_run_deletes_neither_the_new_nor_the_old() {
    let directory = tempfile::tempdir().unwrap();
    let manager = open(directory.path(), keep_last(2));
    for iteration in [118, 119, 120, 50, 51, 52] {
        save(&manager, iteration, 1);
    }
    assert_eq!(iterations(&manager), [51, 52, 119, 120]);
}

#[test]
fn a_checkpoint_that_this_run_did_not_read_is_kept_when_its_iteration_is_saved() {
    let directory = earlier_run();
    let manager = open(directory.path(), Options::default());
    let warnings = save(&manager, 119, 2);
    assert!(warnings[0].contains("checkpoint_iter_119.pt.earlier"), "{warnings:?}");
    assert_eq!(save(&manager, 119, 3), [""; 0], "its own it replaces");
    let kept = save_under(&manager, "checkpoint_iter_119.pt.earlier", SIZE).unwrap();
    assert_eq!(kept, Some(Save { iteration: 119, writer: 1 }));
    let new = save_under(&manager, &name(119), SIZE).unwrap();
    assert_eq!(new, Some(Save { iteration: 119, writer: 3 }));
    // Read, it may be replaced.
    let manager = open(directory.path(), Options::default());
    manager.resume().unwrap();
    assert_eq!(save(&manager, 120, 3), [""; 0]);
}

#[test]
fn a_run_that_goes_back_on_purpose_goes_on_from_there_in_every_later_process() {
    let directory = earlier_run();
    let manager = open(directory.path(), keep_last(2));
    let resumed = manager.resume_with(Resume::default().at(118)).unwrap().unwrap();
    assert_eq!((resumed.checkpoint.iteration, resumed.name), (118, name(118)));
    assert_eq!(latest(directory.path()).iteration, 118);
    assert_eq!(manager.latest().unwrap().unwrap().iteration, 118);
    let superseded: Vec<bool> =
        manager.list().unwrap().iter().map(|listed| listed.superseded).collect();
    assert_eq!(superseded, [false, true, true]);
    drop(manager);

    let manager = open(directory.path(), keep_last(2));
    assert_eq!(manager.resume().unwrap().unwrap().checkpoint.iteration, 118);
    // Its own save replaces one of them, which then counts.
    assert_eq!(save(&manager, 119, 2), [""; 0]);
    drop(manager);
    let manager = open(directory.path(), keep_last(2));
    let resumed = manager.resume().unwrap().unwrap();
    assert_eq!(save_of(&resumed.checkpoint, SIZE).unwrap(), Save { iteration: 119, writer: 2 });
    assert_eq!(latest(directory.path()), Save { iteration: 119, writer: 2 });
    let verdicts = manager.prune(&Retention::keep_last(1).unwrap(), Prune::Remove).unwrap();
    assert_eq!(iterations(&manager), [119, 120]);
    assert_eq!(verdicts[2].reasons, [Reason::Superseded]);
    let verdicts = manager.prune_superseded(Prune::Remove, 1).unwrap();
    assert!(verdicts[1].removed);
    assert_eq!(iterations(&manager), [119]);
    assert_eq!(manager.resume().unwrap().unwrap().checkpoint.iteration, 119);
}

#[test]
fn a_rollback_is_taken_back_by_one_to_a_later_iteration() {
    let directory = earlier_run();
    let manager = open(directory.path(), Options::default());
    manager.rollback(118).unwrap();
    manager.rollback(120).unwrap();
    assert_eq!(manager.resume().unwrap().unwrap().checkpoint.iteration, 120);
    assert!(matches!(manager.rollback(7), Err(Error::NotFound { .. })));
}

#[test]
fn if_all_that_is_not_superseded_is_gone_the_resume_says_so() {
    let directory = earlier_run();
    let manager = open(directory.path(), Options::default());
    manager.rollback(118).unwrap();
    fs::remove_file(directory.path().join(name(118))).unwrap();
    fs::remove_file(directory.path().join("latest.pt")).unwrap();
    let error = manager.resume().unwrap_err().to_string();
    assert!(error.contains("superseded by a rollback"), "{error}");
    fs::write(directory.path().join("superseded.json"), "{").unwrap();
    let error = manager.resume().unwrap_err().to_string();
    assert!(error.contains("superseded.json` cannot be used"), "{error}");
    let listed = manager.list().unwrap();
    assert!(listed[1].problem.as_ref().unwrap().contains("superseded.json"));
}

#[test]
fn a_rollback_is_whole_after_a_power_failure_at_any_moment() {
    let disk = SimulatedDisk::new();
    let manager = CheckpointManager::with_store(over(disk.clone()), keep_last(2));
    for iteration in [1, 2] {
        save(&manager, iteration, 1);
    }
    let before = disk.steps();
    manager.rollback(1).unwrap();
    let recorded = disk.steps();
    // A note has the states checked anew, against what is promised from here on.
    disk.retire("what was promised before");
    assert_eq!(save(&manager, 2, 2), [""; 0]);
    let acknowledged = disk.steps();
    disk.retire("what was promised before");
    let report = disk.crash_from(before, |crash| {
        let store = over(crash.directory.clone());
        let manager = CheckpointManager::with_store(store, Options::default());
        let found = manager.resume().map_err(|error| error.to_string())?.ok_or("nothing")?;
        let found = save_of(&found.checkpoint, SIZE)?;
        let [old, back, new] =
            [(2, 1), (1, 1), (2, 2)].map(|(iteration, writer)| Save { iteration, writer });
        let allowed: &[Save] = match crash.step {
            step if step > acknowledged => &[new],
            step if step > recorded => &[back, new],
            _ => &[old, back],
        };
        match allowed.contains(&found) {
            true => Ok(()),
            false => Err(format!("{found:?}, where {allowed:?} may be found")),
        }
    });
    println!("going back: {report}");
    assert_eq!(report.bad, 0, "{report}");
}

#[test]
fn a_bit_that_flips_in_a_checkpoint_saved_before_does_not_delete_the_sound_one() {
    let directory = tempfile::tempdir().unwrap();
    let manager = open(directory.path(), keep_last(2));
    for iteration in 1..=3 {
        save(&manager, iteration, 1);
    }
    let path = directory.path().join(name(3));
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    // A device that loses a bit tells nobody.
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    for iteration in [4, 5] {
        let warnings = save(&manager, iteration, 1);
        assert!(warnings[0].contains(&name(3)), "{warnings:?}");
    }
    assert_eq!(iterations(&manager), [3, 4, 5], "3 is damaged, 2 went when 5 was there");
    let directory = tempfile::tempdir().unwrap();
    let manager = open(directory.path(), keep_last(2));
    for iteration in 1..=3 {
        save(&manager, iteration, 1);
    }
    fs::write(directory.path().join(name(3)), "damaged").unwrap();
    save(&manager, 4, 1);
    assert_eq!(iterations(&manager), [2, 3, 4], "4 and the sound 2 are the last two");
}
