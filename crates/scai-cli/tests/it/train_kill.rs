//! A training that is killed again and again ends as one that was never killed.

use std::time::Duration;

use crate::support::Sandbox;
use crate::train_support::{CONFIG, Training, with_config};

/// Iterations of a run for each kill: more than a training does before it is killed, so that every
/// kill finds it at work.
const ITERATIONS_A_KILL: u64 = 8;

fn sandbox() -> Sandbox {
    with_config(&CONFIG.replace("iterations: 6", &format!("iterations: {}", iterations())))
}

fn iterations() -> u64 {
    u64::from(kills()) * ITERATIONS_A_KILL
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
    for kill in 1..=kills() {
        let mut training = Training::start(&killed, &["train"]);
        // Up to three iterations, and a random part of the next two: it is killed while it starts,
        // plays, learns, measures or saves.
        for _ in 0..random(&mut state) % 4 {
            training.wait_for_any();
        }
        let two = u64::try_from(whole.as_micros()).unwrap() / iterations() * 2;
        std::thread::sleep(Duration::from_micros(random(&mut state) % two));
        training.child.kill().unwrap();
        assert!(!training.end().success(), "kill {kill} came after the end");
    }
    let shown = killed.run(&["train"]);
    assert!(!shown.contains("error"), "{shown}");

    for iteration in [iterations() / 2, iterations()] {
        let name = format!("checkpoints/checkpoint_iter_{iteration}.pt");
        let (a, b) = (straight.path(&name), killed.path(&name));
        let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
        let ignored = ["--ignore", "timestamp", "--ignore", "metadata"];
        let output = straight.output(&[&["diff", a, b][..], &ignored].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(killed.output(&["verify", "checkpoints"]).status.code(), Some(0));
}
