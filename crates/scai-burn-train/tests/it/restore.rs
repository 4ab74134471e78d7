//! What is taken over from an epoch, and from burn's own checkpointers.

use std::fs;
use std::path::Path;

use burn::train::checkpoint::{Checkpointer, FileCheckpointer};
use scai_burn_train::{Error, adopt, newest};

use crate::records::{FILES, Text, Three, epochs, names};

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn whatever_is_damaged_none_of_the_three_is_given_out() {
    for damaged in FILES {
        for asked in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let three = Three::of(directory.path());
            three.save_all(1, "text");
            let file = format!("{damaged}-1.bpk");
            flip(&directory.path().join("epoch-1").join(&file), 3);
            let error = three.restore(asked, 1).unwrap_err().to_string();
            let expected = format!("epoch-1`: the file `{file}` does not match its checksum");
            assert!(error.contains(&expected), "{error}");
        }
    }
}

#[test]
fn any_other_byte_of_any_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save_all(1, "text");
    let epoch = directory.path().join("epoch-1");
    for name in names(&epoch) {
        let path = epoch.join(name);
        let sound = fs::read(&path).unwrap();
        for at in 0..sound.len() {
            flip(&path, at);
            assert!(three.restore(0, 1).is_err(), "{} {at}", path.display());
            assert!(matches!(newest(directory.path()), Err(Error::NothingToResume { .. })));
            fs::write(&path, &sound).unwrap();
        }
        fs::write(&path, &sound[..sound.len() - 1]).unwrap();
        assert!(three.restore(0, 1).is_err(), "cut");
        fs::write(&path, &sound).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(three.restore(0, 1).is_err(), "removed");
        fs::write(&path, &sound).unwrap();
    }
    assert_eq!(three.restore(0, 1).unwrap(), "text 0");
}

#[test]
fn all_three_come_from_one_commit_even_if_the_epoch_is_replaced_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let (writer, reader) = (Three::of(directory.path()), Three::of(directory.path()));
    writer.save_all(1, "old");
    assert_eq!(reader.restore(0, 1).unwrap(), "old 0");
    writer.save_all(1, "new");
    writer.save_all(2, "two");
    writer.delete_all(1);
    assert_eq!(reader.restore(2, 1).unwrap(), "old 2");
    assert_eq!(reader.restore(1, 1).unwrap(), "old 1");
    // The next one begins anew, and the epoch is gone.
    let error = reader.restore(0, 1).unwrap_err().to_string();
    assert!(error.contains("epoch-1` does not exist"), "{error}");
}

#[test]
fn what_changes_between_two_of_the_three_is_not_given_out() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    three.save_all(1, "text");
    assert_eq!(three.restore(0, 1).unwrap(), "text 0");
    flip(&directory.path().join("epoch-1/optim-1.bpk"), 0);
    let error = three.restore(1, 1).unwrap_err().to_string();
    assert!(error.contains("`optim-1.bpk` does not match its checksum"), "{error}");
}

#[test]
fn damaged_epochs_are_skipped_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let three = Three::of(directory.path());
    (1..=3).for_each(|epoch| three.save_all(epoch, "text"));
    flip(&directory.path().join("epoch-3/scheduler-3.bpk"), 0);
    fs::remove_file(directory.path().join("epoch-2/optim-2.bpk")).unwrap();
    let found = newest(directory.path()).unwrap().unwrap();
    assert_eq!(found.epoch, 1);
    let skipped: Vec<String> = found.skipped.iter().map(Error::to_string).collect();
    assert!(skipped[0].ends_with("`scheduler-3.bpk` does not match its checksum"), "{skipped:?}");
    assert!(skipped[1].ends_with("`optim-2.bpk` is missing"), "{skipped:?}");

    flip(&directory.path().join("epoch-1/model-1.bpk"), 0);
    let error = newest(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("can be resumed from\n  epoch-3: the file `scheduler-3.bpk`"),
        "{error}"
    );
}

#[test]
fn an_empty_or_absent_directory_has_no_newest_epoch() {
    let directory = tempfile::tempdir().unwrap();
    assert!(newest(directory.path()).unwrap().is_none());
    assert!(newest(directory.path().join("absent")).unwrap().is_none());
    let error = Three::of(&directory.path().join("absent")).restore(0, 7).unwrap_err().to_string();
    assert!(error.contains("absent/epoch-7` does not exist"), "{error}");
}

/// burn's own checkpointer of one part.
fn of_burn(directory: &Path, part: usize) -> FileCheckpointer {
    FileCheckpointer::new(directory, FILES[part])
}

#[test]
fn burn_alone_loads_what_was_saved_and_goes_on_from_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    Three::of(path).save_all(1, "text");
    for part in 0..3 {
        for place in [path.to_owned(), path.join("epoch-1")] {
            let Text(text) = of_burn(&place, part).restore(1).unwrap();
            assert_eq!(text, format!("text {part}"));
        }
    }
    // What burn saves from now on is not mixed with what was committed.
    (0..3).for_each(|part| of_burn(path, part).save(2, Text("of burn".into())).unwrap());
    assert_eq!(epochs(path), [1]);
}

#[test]
fn a_training_that_burn_alone_has_saved_is_adopted_and_never_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    // Only what is complete counts.
    for (part, epoch) in [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2)] {
        of_burn(path, part).save(epoch, Text(format!("{part}"))).unwrap();
    }
    let error = newest(path).unwrap_err().to_string();
    assert!(error.contains("call `scai_burn_train::adopt(directory, 1)`"), "{error}");
    assert!(
        matches!(adopt(path, 2), Err(Error::NotFound { path }) if path.ends_with("scheduler-2.bpk"))
    );

    adopt(path, 1).unwrap();
    assert_eq!(newest(path).unwrap().unwrap().epoch, 1);
    let three = Three::of(path);
    (0..3).for_each(|part| assert_eq!(three.restore(part, 1).unwrap(), format!("{part}")));
    let Text(text) = of_burn(path, 0).restore(1).unwrap();
    assert_eq!(text, "0");
    three.save_all(2, "two");
    assert_eq!(of_burn(path, 1).restore(2).map(|Text(text)| text).unwrap(), "two 1");
}

#[test]
fn links_that_lead_nowhere_are_removed_and_missing_ones_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let three = Three::of(path);
    three.save_all(1, "one");
    fs::remove_file(path.join("optim-1.bpk")).unwrap();
    std::os::unix::fs::symlink("epoch-7/model-7.bpk", path.join("model-7.bpk")).unwrap();
    std::os::unix::fs::symlink("elsewhere", path.join("model-8.bpk")).unwrap();
    three.save_all(2, "two");
    assert_eq!(
        names(path),
        [
            ".scai.lock",
            "epoch-1",
            "epoch-2",
            "model-1.bpk",
            "model-2.bpk",
            "model-8.bpk",
            "optim-1.bpk",
            "optim-2.bpk",
            "scheduler-1.bpk",
            "scheduler-2.bpk",
        ]
    );
}
