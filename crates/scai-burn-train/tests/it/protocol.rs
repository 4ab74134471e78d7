//! Saves and deletes in every order.

use std::fs;
use std::sync::Barrier;
use std::thread;

use burn::train::checkpoint::{AsyncCheckpointer, Checkpointer};
use scai_burn_train::newest;

use crate::records::{FILES, Text, Three, epochs, names};

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn an_epoch_is_there_once_all_three_are_saved_in_any_order() {
    for order in ORDERS {
        let directory = tempfile::tempdir().unwrap();
        let three = Three::of(directory.path());
        for part in order {
            assert_eq!(epochs(directory.path()), [0; 0]);
            assert!(newest(directory.path()).unwrap().is_none());
            three.save(part, 1, "text").unwrap();
        }
        assert_eq!(epochs(directory.path()), [1], "{order:?}");
        assert_eq!(newest(directory.path()).unwrap().unwrap().epoch, 1);
    }
}

#[test]
fn epochs_are_saved_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    for (part, epoch) in [(0, 1), (1, 1), (0, 2), (1, 2), (2, 2)] {
        three.save(part, epoch, &format!("{part} of {epoch}")).unwrap();
    }
    assert_eq!(epochs(directory.path()), [2]);
    three.save(2, 1, "2 of 1").unwrap();
    assert_eq!(epochs(directory.path()), [1, 2]);
    for epoch in [1, 2] {
        for part in 0..3 {
            assert_eq!(three.restore(part, epoch).unwrap(), format!("{part} of {epoch}"));
        }
    }
}

#[test]
fn what_is_not_complete_is_removed_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save(0, 1, "text").unwrap();
    three.save(2, 1, "text").unwrap();
    assert!(names(directory.path()).iter().any(|name| name.starts_with(".scai-")));
    drop(three);
    assert_eq!(names(directory.path()), [".scai.lock"]);
}

#[test]
fn a_record_that_cannot_be_written_gives_the_epoch_up_and_all_three_say_why() {
    for order in ORDERS {
        for (failing, name) in FILES.into_iter().enumerate() {
            let directory = tempfile::tempdir().unwrap();
            let three = Three::of(directory.path());
            three.save_all(1, "one");
            let mut failed = false;
            for part in order {
                let saved = three.save(part, 2, if part == failing { "" } else { "text" });
                failed |= part == failing;
                assert_eq!(saved.is_err(), failed, "{order:?} {failing}");
                if let Err(error) = saved {
                    let file = format!("`{name}-2.bpk`: no power at ");
                    let error = error.to_string();
                    assert!(error.contains(&file), "{error}");
                    assert!(!error.contains(".scai-"), "the temporary name: {error}");
                }
            }
            assert_eq!(epochs(directory.path()), [1]);
            assert_eq!(names(directory.path()).len(), 5, "{:?}", names(directory.path()));

            // The epoch can be saved again, as a whole.
            three.save_all(2, "two");
            assert_eq!(epochs(directory.path()), [1, 2]);
            assert_eq!(three.restore(failing, 2).unwrap(), format!("two {failing}"));
        }
    }
}

#[test]
fn an_epoch_that_is_saved_again_is_replaced_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save_all(1, "old");
    three.save(0, 1, "new 0").unwrap();
    three.save(1, 1, "new 1").unwrap();
    for part in 0..3 {
        assert_eq!(three.restore(part, 1).unwrap(), format!("old {part}"));
    }
    three.save(2, 1, "new 2").unwrap();
    for part in 0..3 {
        assert_eq!(three.restore(part, 1).unwrap(), format!("new {part}"));
    }
}

#[test]
fn an_epoch_is_deleted_once_all_three_ask_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save_all(1, "one");
    three.save_all(2, "two");
    three.delete(0, 1);
    three.delete(2, 1);
    assert_eq!(epochs(directory.path()), [1, 2]);
    three.delete(1, 1);
    assert_eq!(epochs(directory.path()), [2]);
    assert_eq!(
        names(directory.path()),
        [".scai.lock", "epoch-2", "model-2.bpk", "optim-2.bpk", "scheduler-2.bpk"]
    );
}

/// burn's strategy for the best epoch asks for the delete first, then for the save.
#[test]
fn the_newest_epoch_is_deleted_only_when_a_newer_one_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save_all(1, "one");
    three.delete_all(1);
    three.save(0, 2, "two").unwrap();
    three.save(1, 2, "two").unwrap();
    assert_eq!(epochs(directory.path()), [1]);
    three.save(2, 2, "two").unwrap();
    assert_eq!(epochs(directory.path()), [2]);
}

#[test]
fn a_delete_that_overtakes_the_last_record_of_the_newer_epoch_waits_for_it() {
    for last in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let three = Three::of(directory.path());
        three.save_all(1, "one");
        for part in (0..3).filter(|part| *part != last) {
            three.save(part, 2, "two").unwrap();
            three.delete(part, 1);
        }
        assert_eq!(epochs(directory.path()), [1]);
        three.save(last, 2, "two").unwrap();
        assert_eq!(epochs(directory.path()), [1, 2]);
        three.delete(last, 1);
        assert_eq!(epochs(directory.path()), [2]);
    }
}

#[test]
fn a_newer_epoch_that_fails_leaves_the_one_that_was_to_be_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save_all(1, "one");
    three.delete_all(1);
    (0..3).for_each(|part| assert!(three.save(part, 2, "").is_err()));
    assert_eq!(epochs(directory.path()), [1]);
    three.save_all(3, "three");
    assert_eq!(epochs(directory.path()), [3]);
}

/// burn's strategy for the last epochs asks for the delete whether or not the save has failed.
#[test]
fn what_an_epoch_that_failed_was_to_replace_stays_until_one_is_durable() {
    for failing in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let three = Three::of(directory.path());
        (1..=2).for_each(|epoch| three.save_all(epoch, "text"));
        for part in 0..3 {
            assert_eq!(
                three.save(part, 3, if part == failing { "" } else { "three" }).is_err(),
                part >= failing
            );
            three.delete(part, 1);
        }
        assert_eq!(epochs(directory.path()), [1, 2]);
        three.save_all(4, "four");
        assert_eq!(epochs(directory.path()), [2, 4]);
    }
}

/// A training that was taken back to epoch 2 is at epoch 3, though there is an epoch 9.
#[test]
fn the_epoch_that_the_training_is_at_is_kept_even_if_it_is_not_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save_all(9, "of an earlier training");
    three.save_all(3, "three");
    three.delete_all(3);
    assert_eq!(epochs(directory.path()), [3, 9]);
    three.save_all(4, "four");
    assert_eq!(epochs(directory.path()), [4, 9]);
}

#[test]
fn a_second_training_in_the_directory_is_refused_until_the_first_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (Three::of(directory.path()), Three::of(directory.path()));
    one.save_all(1, "one");
    let error = other.save(0, 2, "two").unwrap_err().to_string();
    assert!(error.contains("is in use by another writer (process "), "{error}");
    assert_eq!(other.restore(0, 1).unwrap(), "one 0");
    drop(one);
    // Of the second epoch nothing was saved, and the other two parts are told so.
    assert!(other.save(1, 2, "two").is_err() && other.save(2, 2, "two").is_err());
    other.save_all(3, "three");
    assert_eq!(epochs(directory.path()), [1, 3]);
}

#[test]
fn a_directory_of_somebody_else_is_neither_replaced_nor_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let notes = directory.path().join("epoch-1/notes.txt");
    fs::create_dir(notes.parent().unwrap()).unwrap();
    fs::write(&notes, "keep").unwrap();
    let three = Three::of(directory.path());
    three.save(0, 1, "one").unwrap();
    three.save(1, 1, "one").unwrap();
    let error = three.save(2, 1, "one").unwrap_err().to_string();
    assert!(
        error.contains("epoch-1`: not a checkpoint: the directory has no `commit.json`"),
        "{error}"
    );
    three.save_all(2, "two");
    (0..2).for_each(|part| three.delete(part, 1));
    assert!(Checkpointer::<Text>::delete(&three.into_array()[2], 1).is_err());
    assert_eq!(fs::read_to_string(notes).unwrap(), "keep");
}

#[test]
fn a_directory_that_was_removed_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("checkpoint");
    let three = Three::of(&directory);
    three.save_all(1, "one");
    fs::remove_dir_all(&directory).unwrap();
    three.save_all(2, "two");
    assert_eq!(epochs(&directory), [2]);
}

/// As the learner calls them: each checkpointer in a thread of its own, two epochs kept.
#[test]
fn in_threads_of_burn_the_newest_epoch_only_grows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let threads = Three::of(path).into_array().map(AsyncCheckpointer::<Text>::new);
    let (epochs_to_save, ended) = (60, Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            for epoch in 1..=epochs_to_save {
                for (part, thread) in threads.iter().enumerate() {
                    let text = format!("{part} of {epoch} ").repeat(1 + part * epoch);
                    thread.save(epoch, Text(text)).unwrap();
                }
                if epoch > 2 {
                    threads.iter().for_each(|thread| thread.delete(epoch - 2).unwrap());
                }
            }
            ended.wait();
        });
        let mut before = 0;
        while before + 1 < epochs_to_save {
            // An epoch may be deleted while it is looked at; it is then an older one.
            let found = newest(path).ok().flatten().map_or(before, |found| found.epoch);
            assert!(found >= before, "{found} after {before}");
            before = found;
        }
        ended.wait();
    });
    drop(threads);
    assert_eq!(epochs(path), [epochs_to_save - 1, epochs_to_save]);
}
