//! What is called like a checkpoint and is not a file: a run never starts over because of it.

use std::os::unix::fs::symlink;
use std::path::Path;

use scai_checkpoint::manager::{Resume, Unreadable};
use scai_checkpoint::{Checkpoint, CheckpointManager, Dict, Error, Options};

fn manager(directory: &Path) -> CheckpointManager {
    CheckpointManager::create(directory, Options::default()).unwrap()
}

fn make(kind: &str, path: &Path) {
    match kind {
        "dangling link" => symlink("/nonexistent/checkpoint.pt", path).unwrap(),
        "link to itself" => symlink(path.file_name().unwrap(), path).unwrap(),
        "directory" => std::fs::create_dir(path).unwrap(),
        _ => unreachable!(),
    }
}

const KINDS: [&str; 3] = ["dangling link", "link to itself", "directory"];

#[test]
fn a_newer_one_that_is_not_a_file_is_an_error_and_can_be_skipped() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let writer = manager(directory.path());
        writer.save(Checkpoint::new(1, Dict::new(), Dict::new())).unwrap();
        make(kind, &directory.path().join("checkpoint_iter_2.pt"));
        let error = writer.resume().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Unsupported { .. }), "{kind}: {text}");
        assert!(text.contains("checkpoint_iter_2.pt") && text.contains("mount"), "{kind}: {text}");
        let skip = Resume::default().unreadable(Unreadable::Skip);
        let resumed = writer.resume_with(skip).unwrap().unwrap();
        assert_eq!(resumed.checkpoint.iteration, 1, "{kind}");
        assert_eq!(resumed.iterations_lost, 1, "{kind}");
        assert_eq!(resumed.skipped.len(), 1, "{kind}");
        assert!(resumed.skipped[0].set_aside.is_none(), "{kind}");
    }
}

#[test]
fn a_directory_of_nothing_else_does_not_look_as_if_it_were_empty() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let writer = manager(directory.path());
        make(kind, &directory.path().join("checkpoint_iter_2.pt"));
        assert!(writer.resume().is_err(), "{kind}");
        let skip = Resume::default().unreadable(Unreadable::Skip);
        let error = writer.resume_with(skip).unwrap_err();
        assert!(matches!(error, Error::NothingToResume { .. }), "{kind}: {error}");
    }
}

#[test]
fn an_older_one_that_is_not_a_file_is_not_looked_at() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let writer = manager(directory.path());
        make(kind, &directory.path().join("checkpoint_iter_2.pt"));
        writer.save(Checkpoint::new(3, Dict::new(), Dict::new())).unwrap();
        let resumed = writer.resume().unwrap().unwrap();
        assert_eq!((resumed.checkpoint.iteration, resumed.skipped.len()), (3, 0), "{kind}");
    }
}
