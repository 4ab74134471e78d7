//! Tensors that stay on disk while somebody replaces, removes or cuts their file.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use scai_checkpoint::manager::{Prune, Residency};
use scai_checkpoint::{Checkpoint, CheckpointManager, Error, Options, Retention};

use crate::training::{Random, Save, Size, full, name, save_of, state};

const SIZE: Size = Size::Medium;

fn save(iteration: u64, writer: u64) -> Save {
    Save { iteration, writer }
}

/// A directory with some checkpoints of writer 1.
fn directory(iterations: u64) -> (tempfile::TempDir, CheckpointManager) {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::open(directory.path(), Options::default()).unwrap();
    for iteration in 1..=iterations {
        manager.save(state(save(iteration, 1), SIZE)).unwrap();
    }
    (directory, manager)
}

fn lazy(manager: &CheckpointManager, iteration: u64) -> Checkpoint {
    manager.load(name(iteration), Residency::Disk).unwrap()
}

/// How many tensors can be read, all of them rightly, and the errors of the others.
fn read(lazy: &Checkpoint, save: Save) -> (usize, Vec<Error>) {
    let (expected, found) =
        (state(save, SIZE).into_tree().unwrap(), lazy.clone().into_tree().unwrap());
    let (mut right, mut errors) = (0, Vec::new());
    for ((path, expected), (_, found)) in expected.tensors().into_iter().zip(found.tensors()) {
        match found.to_bytes() {
            Ok(bytes) => {
                assert!(bytes == expected.to_bytes().unwrap(), "`{path}` is silently different");
                right += 1;
            }
            Err(error) => errors.push(error),
        }
    }
    (right, errors)
}

#[test]
fn a_replaced_or_removed_file_stays_as_it_was_for_who_has_it_open() {
    let (directory, manager) = directory(2);
    let (replaced, removed) = (lazy(&manager, 2), lazy(&manager, 1));
    manager.save(state(save(2, 7), SIZE)).unwrap();
    manager.prune(&Retention::keep_last(1).unwrap(), Prune::Remove).unwrap();
    assert!(!directory.path().join(name(1)).exists());
    assert_eq!(save_of(&replaced, SIZE), Ok(save(2, 1)));
    assert_eq!(save_of(&removed, SIZE), Ok(save(1, 1)));
    assert_eq!(save_of(&lazy(&manager, 2), SIZE), Ok(save(2, 7)));
    fs::remove_dir_all(directory.path()).unwrap();
    assert_eq!(save_of(&replaced, SIZE), Ok(save(2, 1)));
}

#[test]
fn a_file_that_is_saved_over_all_the_time_is_read_whole() {
    let (_directory, manager) = directory(1);
    let done = AtomicBool::new(false);
    let reads = if full() { 2_000 } else { 200 };
    thread::scope(|scope| {
        scope.spawn(|| {
            for writer in 2.. {
                manager.save(state(save(1, writer), SIZE)).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..reads {
            let lazy = lazy(&manager, 1);
            thread::yield_now();
            seen.insert(save_of(&lazy, SIZE).unwrap());
        }
        done.store(true, Ordering::Relaxed);
        println!(
            "{reads} lazy reads beside saves over the same file: {} different states, each whole",
            seen.len()
        );
    });
}

#[test]
fn a_file_cut_or_overwritten_in_place_is_an_error_and_nothing_worse() {
    let (directory, manager) = directory(2);
    let path = directory.path().join(name(1));
    let (bytes, other) =
        (fs::read(&path).unwrap(), fs::read(directory.path().join(name(2))).unwrap());
    let mut random = Random(3);
    let (mut right, mut wrong) = (0, 0);
    let rounds = if full() { 2_000 } else { 200 };
    for round in 0..rounds {
        fs::write(&path, &bytes).unwrap();
        let lazy = lazy(&manager, 1);
        // `fs::write` keeps the file and its inode: what is open is cut and changed under way.
        let cut = random.below(bytes.len() as u64) as usize;
        match round % 3 {
            0 => fs::write(&path, &bytes[..cut]).unwrap(),
            1 => fs::write(&path, &other).unwrap(),
            _ => fs::write(&path, [&other[..cut], &bytes[cut..]].concat()).unwrap(),
        }
        let (ok, errors) = read(&lazy, save(1, 1));
        right += ok;
        wrong += errors.len();
        for error in errors {
            let Error::Damaged { place, .. } = &error else { panic!("{error}") };
            assert!(place.record.is_some() && place.bytes.is_some(), "{error}");
        }
    }
    println!(
        "{rounds} files cut or overwritten while open: {right} tensors read right, {wrong} refused, 0 different"
    );
    assert!(right > 0 && wrong > 0);
}
