//! What the user reads. `--nocapture` prints what burn says in the same place.

use std::fs;

use crate::records::epochs;
use crate::training::{Kind, Training};

/// Trains for three epochs.
fn trained(kind: Kind) -> (tempfile::TempDir, Training) {
    let directory = tempfile::tempdir().unwrap();
    let training = Training::new(kind, directory.path(), 3);
    training.run().unwrap();
    let training = Training { epochs: 5, resume: Some(3), ..training };
    (directory, training)
}

/// The file of a part of epoch 3.
fn file(training: &Training, part: &str) -> std::path::PathBuf {
    let checkpoints = training.checkpoints();
    match training.kind {
        Kind::Scai => checkpoints.join(format!("epoch-3/{part}-3.bpk")),
        Kind::Burn => checkpoints.join(format!("{part}-3.bpk")),
    }
}

/// The line of a panic that says why.
fn line(result: &Result<String, String>) -> String {
    match result {
        Ok(weights) => format!("goes on, weights {weights}"),
        Err(text) => {
            let of_panic = text.lines().find(|line| line.starts_with("Can "));
            of_panic.or_else(|| text.lines().next()).unwrap_or_default().to_owned()
        }
    }
}

fn both(what: &str, change: impl Fn(&Training) -> Training) -> String {
    let mut ours = String::new();
    for kind in [Kind::Burn, Kind::Scai] {
        let (_directory, training) = trained(kind);
        let line = line(&change(&training).run());
        println!("{what} | {kind:?}: {line}");
        if kind == Kind::Scai {
            ours = line;
        }
    }
    ours
}

#[test]
fn a_damaged_epoch_names_the_file() {
    for part in ["model", "optim", "scheduler"] {
        let line = both(&format!("one bit of {part} flipped"), |training| {
            let path = file(training, part);
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 3;
            bytes[last] ^= 1;
            fs::write(path, bytes).unwrap();
            training.clone()
        });
        assert!(line.starts_with("Can load model checkpoint."), "{line}");
        assert!(line.contains(&format!("`{part}-3.bpk` does not match its checksum")), "{line}");
    }
}

#[test]
fn a_removed_file_is_named() {
    let line = both("optim removed", |training| {
        fs::remove_file(file(training, "optim")).unwrap();
        training.clone()
    });
    assert!(line.contains("/checkpoint/epoch-3`: the file `optim-3.bpk` is missing"), "{line}");
}

#[test]
fn a_full_disk_is_reported_and_leaves_the_epochs_before() {
    let line = both("full disk", |training| {
        // The model fits, the optimizer does not.
        let file_limit = Some(2 << 20);
        Training { file_limit, ..training.clone() }
    });
    assert!(line.starts_with("error Checkpoint error"), "{line}");
    assert!(line.contains("/checkpoint/epoch-4`: cannot save: `optim-4.bpk`: "), "{line}");
    assert!(line.contains("File too large"), "{line}");
    assert!(line.contains("other epochs are untouched"), "{line}");

    let (_directory, training) = trained(Kind::Scai);
    assert!(Training { file_limit: Some(2 << 20), ..training.clone() }.run().is_err());
    assert_eq!(epochs(&training.checkpoints()), [2, 3]);
}

#[test]
fn an_error_in_the_last_epoch_is_reported_too() {
    let line = both("full disk in the last epoch", |training| Training {
        file_limit: Some(2 << 20),
        epochs: 4,
        ..training.clone()
    });
    assert!(line.contains("/checkpoint/epoch-4`: cannot save"), "{line}");
}

#[test]
fn a_second_training_in_the_directory_is_told_who_is_there() {
    let line = both("two trainings", |training| {
        if training.kind == Kind::Scai {
            // The first one; it ends with this test.
            let three = crate::records::Three::of(&training.checkpoints());
            three.save_all(3, "text");
            std::mem::forget(three);
        }
        Training { resume: None, ..training.clone() }
    });
    assert!(line.contains("is in use by another writer (process "), "{line}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let line = both("a file in the place of the directory", |training| {
        fs::remove_dir_all(training.checkpoints()).unwrap();
        fs::write(training.checkpoints(), "a file").unwrap();
        Training { resume: None, ..training.clone() }
    });
    assert!(line.contains("is a file, not a directory"), "{line}");
}
