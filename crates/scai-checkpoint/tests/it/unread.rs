//! What was not read is neither ignored nor replaced.

use std::fs;
use std::path::Path;
use std::time::Instant;

use scai_checkpoint::manager::{Resume, Unreadable};
use scai_checkpoint::store::MemoryDirectory;
use scai_checkpoint::testing::{Effect, Failure, Fault, FaultDirectory, Op, Times};
use scai_checkpoint::{CheckpointManager, Error, Options, Retention};

use crate::support::{names, over};
use crate::training::{Save, Size, name, open, save_of, save_under, state};

const SIZE: Size = Size::Tiny;

fn save(manager: &CheckpointManager, iteration: u64) -> Vec<String> {
    let saved = manager.save(state(Save { iteration, writer: 1 }, SIZE)).unwrap();
    saved.warnings.iter().map(ToString::to_string).collect()
}

fn directory(iterations: &[u64]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let manager = open(directory.path(), Options::default());
    iterations.iter().for_each(|iteration| drop(save(&manager, *iteration)));
    directory
}

fn fresh(directory: &tempfile::TempDir) -> CheckpointManager {
    open(directory.path(), Options::default())
}

fn resumed(manager: &CheckpointManager) -> u64 {
    let resumed = manager.resume().unwrap().expect("a checkpoint");
    save_of(&resumed.checkpoint, SIZE).unwrap().iteration
}

/// Copies a genuine file of torch that needs code to be run.
fn unreadable(to: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
    let mut files = vec![golden];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "pt")
            && scai_checkpoint::file::open(&path, scai_checkpoint::codec::Unprotected::Accept)
                .and_then(|file| file.tree())
                .is_err_and(|error| !matches!(error, Error::Damaged { .. }))
        {
            fs::copy(path, to).unwrap();
            return;
        }
    }
    panic!("no such golden file");
}

#[test]
fn a_newest_checkpoint_that_cannot_be_read_is_not_passed_over() {
    let directory = directory(&[1, 2]);
    unreadable(&directory.path().join(name(3)));
    let before = fs::read(directory.path().join(name(3))).unwrap();
    let manager = fresh(&directory);
    let error = manager.resume().unwrap_err();
    assert!(!matches!(error, Error::Damaged { .. } | Error::NothingToResume { .. }), "{error}");
    assert!(error.to_string().contains(&name(3)), "{error}");

    let skip = Resume::default().unreadable(Unreadable::Skip);
    let resumed = manager.resume_with(skip).unwrap().unwrap();
    assert_eq!((resumed.checkpoint.iteration, resumed.skipped.len()), (2, 1));
    assert_eq!(resumed.skipped[0].set_aside, None);
    // The run that goes on does not replace it.
    let warnings = save(&manager, 3);
    assert!(warnings[0].contains("checkpoint_iter_3.pt.earlier"), "{warnings:?}");
    let kept = fs::read(directory.path().join("checkpoint_iter_3.pt.earlier")).unwrap();
    assert_eq!(kept, before);
}

#[test]
fn a_padded_name_is_seen_used_and_never_overwritten() {
    let directory = directory(&[1, 20]);
    let padded = directory.path().join("checkpoint_iter_0000020.pt");
    fs::rename(directory.path().join(name(20)), &padded).unwrap();
    fs::remove_file(directory.path().join("latest.pt")).unwrap();
    let manager =
        open(directory.path(), Options::default().retention(Retention::keep_last(2).unwrap()));
    assert_eq!(manager.list().unwrap()[1].iteration, 20);
    assert_eq!(manager.latest().unwrap().unwrap().name, "checkpoint_iter_0000020.pt");
    assert_eq!(resumed(&manager), 20);
    assert_eq!(save(&manager, 20), [""; 0]);
    assert!(padded.exists());
    assert_eq!(names(&manager).len(), 2, "1 is the third: {:?}", names(&manager));
}

#[test]
fn a_latest_that_is_all_there_is_is_resumed_from_and_kept() {
    let from = directory(&[7]);
    let directory = tempfile::tempdir().unwrap();
    fs::copy(from.path().join("latest.pt"), directory.path().join("latest.pt")).unwrap();
    let manager = fresh(&directory);
    assert_eq!(manager.list().unwrap()[0].iteration, 7);
    let found = manager.resume().unwrap().unwrap();
    assert_eq!((found.checkpoint.iteration, found.name.as_str()), (7, "latest.pt"));
    let warnings = save(&manager, 8);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(save(&manager, 9), [""; 0]);
    assert_eq!(names(&manager), [name(7), name(8), name(9)]);
    let kept = save_under(&manager, &name(7), SIZE).unwrap();
    assert_eq!(kept, Some(Save { iteration: 7, writer: 1 }));
}

#[test]
fn a_latest_that_is_all_there_is_is_kept_by_a_run_that_does_not_resume() {
    let from = directory(&[7]);
    for first in [3, 7] {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(from.path().join("latest.pt"), directory.path().join("latest.pt")).unwrap();
        let before = fs::read(from.path().join("latest.pt")).unwrap();
        let manager =
            open(directory.path(), Options::default().retention(Retention::keep_last(1).unwrap()));
        for iteration in first..first + 3 {
            save(&manager, iteration);
        }
        let kept = fs::read_dir(directory.path())
            .unwrap()
            .filter(|entry| fs::read(entry.as_ref().unwrap().path()).unwrap() == before);
        assert!(kept.count() > 0, "first {first}");
    }
}

#[test]
fn a_latest_whose_checkpoint_was_deleted_to_go_back_does_not_come_back() {
    let directory = directory(&[1, 2]);
    fs::remove_file(directory.path().join(name(2))).unwrap();
    let manager = fresh(&directory);
    assert_eq!(resumed(&manager), 1);
    save(&manager, 2);
    assert_eq!(names(&manager), [name(1), name(2)]);
}

#[test]
fn a_latest_that_needs_code_is_neither_resumed_past_nor_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let latest = directory.path().join("latest.pt");
    unreadable(&latest);
    let before = fs::read(&latest).unwrap();
    let manager = fresh(&directory);
    manager.resume().unwrap_err();
    save(&manager, 1);
    assert_eq!(fs::read(directory.path().join("latest.pt.earlier")).unwrap(), before);
}

#[test]
fn a_name_and_a_file_of_different_iterations_are_refused_with_both() {
    let directory = directory(&[10, 20]);
    fs::rename(directory.path().join(name(20)), directory.path().join(name(30))).unwrap();
    let manager = fresh(&directory);
    let error = manager.resume().unwrap_err().to_string();
    assert!(error.contains("iteration 30") && error.contains("says 20"), "{error}");
    assert!(error.contains(&name(30)) && error.contains(&name(20)), "{error}");
    let skip = Resume::default().unreadable(Unreadable::Skip);
    assert_eq!(manager.resume_with(skip).unwrap().unwrap().checkpoint.iteration, 10);
    save(&manager, 30);
    assert!(directory.path().join("checkpoint_iter_30.pt.earlier").exists());
}

#[test]
fn a_checkpoint_under_another_name_is_not_ignored_by_a_resume_that_finds_nothing_else() {
    let directory = directory(&[20]);
    fs::rename(directory.path().join(name(20)), directory.path().join("my_best.pt")).unwrap();
    fs::remove_file(directory.path().join("latest.pt")).unwrap();
    let error = fresh(&directory).resume().unwrap_err().to_string();
    assert!(error.contains("my_best.pt") && error.contains("iteration 20"), "{error}");
    assert!(error.contains(&name(20)), "{error}");
}

#[test]
fn a_read_that_fails_once_does_not_cost_the_newest_checkpoint() {
    let store = FaultDirectory::new(MemoryDirectory::default());
    let manager = CheckpointManager::with_store(over(store.clone()), Options::default());
    save(&manager, 1);
    save(&manager, 2);
    let fault = |times| Fault {
        concerns: |op| matches!(op, Op::Read { name, .. } if name.contains("iter_2")),
        after: 1,
        times,
        effect: Effect::Fail(Failure::Os(5)),
    };
    store.arm(fault(Times::Once));
    let found = manager.resume().unwrap().unwrap();
    assert_eq!((found.checkpoint.iteration, store.fired()), (2, 1));
    assert!(found.skipped.is_empty());
    // One that goes on failing is an error, not a step back.
    store.arm(fault(Times::FromThenOn));
    let start = Instant::now();
    assert!(matches!(manager.resume().unwrap_err(), Error::Io { .. }));
    println!("given up after {:?}", start.elapsed());
    let skip = Resume::default().unreadable(Unreadable::Skip);
    assert_eq!(manager.resume_with(skip).unwrap().unwrap().checkpoint.iteration, 1);
    store.disarm();
    assert_eq!(names(&manager), [name(1), name(2)], "nothing was set aside");
}
