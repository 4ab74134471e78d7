//! A training that is killed again and again ends as one that was never killed.

use std::time::Duration;

use crate::support::Sandbox;
use crate::train_support::{CONFIG, Training, with_config};

/// Iterations of a run: every kill must find it at work.
const ITERATIONS: u64 = 60;

fn sandbox() -> Sandbox {
    with_config(&CONFIG.replace("iterations: 6", &format!("iterations: {ITERATIONS}")))
}

/// Kills to survive: a few, and more with `SCAI_PROOFS=full`.
fn kills() -> u32 {
    match std::env::var("SCAI_PROOFS").as_deref() {
        Ok("full") => 20,
        _ => 4,
    }
}

/// A cheap generator of moments: xorshift.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_training_killed_at_random_moments_ends_with_the_same_bits() {
    let (straight, killed) = (sandbox(), sandbox());
    let begun = std::time::Instant::now();
    assert!(straight.output(&["train"]).status.success());
    let whole = begun.elapsed();

    let mut state = 0x2545_f491_4f6c_dd1d;
    let mut survived = 0;
    for _ in 0..kills() {
        let mut training = Training::start(&killed, &["train"]);
        // Up to three iterations, and a random part of the next two: it is killed while it starts,
        // plays, learns, measures or saves, and never comes to its end.
        for _ in 0..random(&mut state) % 4 {
            training.wait_for_any();
        }
        let two = u64::try_from(whole.as_micros()).unwrap() / ITERATIONS * 2;
        std::thread::sleep(Duration::from_micros(random(&mut state) % two));
        training.child.kill().unwrap();
        survived += u32::from(!training.end().success());
    }
    assert!(survived > kills() / 2, "it was killed {survived} times only");
    let shown = killed.run(&["train"]);
    assert!(!shown.contains("error"), "{shown}");

    for iteration in [ITERATIONS / 2, ITERATIONS] {
        let name = format!("checkpoints/checkpoint_iter_{iteration}.pt");
        let (a, b) = (straight.path(&name), killed.path(&name));
        let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
        let ignored = ["--ignore", "timestamp", "--ignore", "metadata"];
        let output = straight.output(&[&["diff", a, b][..], &ignored].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(killed.output(&["verify", "checkpoints"]).status.code(), Some(0));
}
