//! The example that users copy: killed again and again, it ends as if it had never been.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use scai_checkpoint::{Checkpoint, CheckpointManager, Options};

/// The example, which cargo builds with the tests.
fn start(directory: &Path) -> Child {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let example: PathBuf = profile.join("examples/resume");
    Command::new(example).arg(directory).stdout(Stdio::null()).spawn().unwrap()
}

fn last(directory: &Path) -> Option<Checkpoint> {
    let manager = CheckpointManager::open(directory, Options::default()).ok()?;
    let listed = manager.latest().unwrap()?;
    let mut checkpoint = manager.load(listed.name.as_str(), Default::default()).unwrap();
    checkpoint.timestamp = None;
    Some(checkpoint)
}

fn iteration(directory: &Path) -> u64 {
    let manager = CheckpointManager::open(directory, Options::default()).ok();
    let paths = manager.and_then(|manager| manager.paths().ok()).unwrap_or_default();
    let number = |path: &PathBuf| {
        let stem = path.file_stem()?.to_str()?;
        stem.rsplit('_').next()?.parse().ok()
    };
    paths.iter().filter_map(number).max().unwrap_or(0)
}

#[test]
fn the_example_killed_again_and_again_ends_with_the_same_bits() {
    let (straight, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(start(straight.path()).wait().unwrap().success());

    for _ in 0..4 {
        let before = iteration(killed.path());
        let mut child = start(killed.path());
        let begun = Instant::now();
        while iteration(killed.path()) == before && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint in a minute");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let interrupted = iteration(killed.path());
    assert!((1..300).contains(&interrupted), "killed at {interrupted}");
    assert!(start(killed.path()).wait().unwrap().success());
    assert_eq!(last(killed.path()), last(straight.path()));
    assert_eq!(iteration(killed.path()), 300);
}
