//! The example that users copy: killed at any moment, it ends as if it had never been.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scai_checkpoint::{Checkpoint, CheckpointManager, Options};

/// The steps of the example.
const STEPS: u64 = 300;

/// Kills to survive: a few, and more with `SCAI_PROOFS=full`.
fn kills() -> u32 {
    match std::env::var("SCAI_PROOFS").as_deref() {
        Ok("full") => 30,
        _ => 4,
    }
}

/// The example, which cargo builds with the tests.
fn start(directory: &Path) -> Child {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let example = profile.join("examples/resume");
    Command::new(example).arg(directory).stdout(Stdio::null()).spawn().unwrap()
}

/// The newest checkpoint, read as a resume reads it: every byte is checked.
fn newest(directory: &Path) -> Option<Checkpoint> {
    let manager = CheckpointManager::open(directory, Options::default()).ok()?;
    let listed = manager.latest().unwrap()?;
    let mut checkpoint = manager.load(listed.name.as_str(), Default::default()).unwrap();
    checkpoint.timestamp = None;
    Some(checkpoint)
}

fn iteration(directory: &Path) -> u64 {
    newest(directory).map_or(0, |checkpoint| checkpoint.iteration)
}

/// Each run is killed at a random moment: while it starts, computes, copies, writes or ends. A training
/// that ended is compared, and the next kills find a new one.
#[test]
fn the_example_killed_at_random_moments_ends_with_the_same_bits() {
    let straight = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    assert!(start(straight.path()).wait().unwrap().success());
    let whole = begun.elapsed();
    let expected = newest(straight.path()).unwrap();
    assert_eq!(expected.iteration, STEPS);

    let mut random = ChaCha8Rng::seed_from_u64(0);
    let (mut left, mut trainings, mut went_on) = (kills(), 0, 0);
    while left > 0 {
        let killed = tempfile::tempdir().unwrap();
        let mut reached = 0;
        while left > 0 && reached < STEPS {
            let mut child = start(killed.path());
            let moment = whole.mul_f64(0.5 * random.random::<f64>());
            std::thread::sleep(moment);
            child.kill().unwrap();
            let was_running = !child.wait().unwrap().success();
            left -= u32::from(was_running);
            // A checkpoint that was there is never lost, and the newest one is always sound.
            let now = iteration(killed.path());
            assert!(now >= reached, "after {reached} steps there were {now}");
            went_on += u32::from(was_running && (1..STEPS).contains(&now));
            reached = now;
        }
        assert!(start(killed.path()).wait().unwrap().success());
        assert_eq!(newest(killed.path()).unwrap(), expected);
        trainings += 1;
    }
    println!(
        "{} kills in {trainings} trainings of {whole:?}, {went_on} in the middle of one",
        kills()
    );
    assert!(went_on > 0, "every kill came before the first checkpoint or after the end");
}
