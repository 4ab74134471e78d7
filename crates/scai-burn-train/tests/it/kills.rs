//! Trainings that are killed, with burn's own checkpointers and with these.
//!
//! `SCAI_PROOFS=full` kills each thirty times; `--nocapture` prints the table.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal};
use scai_burn_train::newest;

use crate::records::{FILES, epochs, names};
use crate::training::{Kind, Training};

fn kills() -> usize {
    if std::env::var("SCAI_PROOFS").is_ok_and(|proofs| proofs == "full") { 30 } else { 4 }
}

/// Numbers that differ from run to run.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Self(now.as_nanos() as u64 | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The epochs of which burn's own checkpointers have written a part, and the parts.
fn of_burn(directory: &Path) -> BTreeSet<(usize, &'static str)> {
    let mut found = BTreeSet::new();
    for name in fs::read_dir(directory).into_iter().flatten() {
        let name = name.unwrap().file_name().into_string().unwrap();
        for part in FILES {
            let epoch = name.strip_prefix(part).and_then(|rest| rest.strip_prefix('-'));
            let epoch = epoch.and_then(|rest| rest.strip_suffix(".bpk"));
            found.extend(epoch.map(|epoch| (epoch.parse().unwrap(), part)));
        }
    }
    found
}

/// The newest epoch with all three files; with scai, with its three links.
fn complete_of_burn(directory: &Path) -> Option<usize> {
    let found = of_burn(directory);
    let all = |epoch: &usize| FILES.iter().all(|part| found.contains(&(*epoch, part)));
    found.iter().map(|(epoch, _)| *epoch).rev().find(all)
}

/// The epoch that looks newest: what somebody resumes from who looks at the names.
fn looks_newest(training: &Training) -> Option<usize> {
    let directory = training.checkpoints();
    match training.kind {
        Kind::Scai => newest(directory).unwrap().map(|found| found.epoch),
        Kind::Burn => of_burn(&directory)
            .into_iter()
            .filter(|(_, part)| *part == "model")
            .map(|(n, _)| n)
            .max(),
    }
}

/// Starts a training and kills it at a random moment after it has saved something.
fn kill(training: &Training, random: &mut Random, signal: Signal) {
    let directory = training.checkpoints();
    let before = complete_of_burn(&directory);
    let mut child = training.start();
    let begun = Instant::now();
    while complete_of_burn(&directory) == before && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint in two minutes");
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_micros(random.below(150_000)));
    rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap();
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// The epoch that looks newest cannot be loaded.
    could_not_go_on: usize,
    /// Its three files are of different processes.
    mixed: usize,
    /// An older epoch than after an earlier kill.
    went_back: usize,
    /// No epoch at all is complete.
    nothing: usize,
    /// It does not end as a training that nobody disturbed.
    other_bits: bool,
}

/// Kills a training again and again, and lets it go on from the newest epoch each time.
fn kill_and_go_on(kind: Kind, random: &mut Random) -> Found {
    let directory = tempfile::tempdir().unwrap();
    let mut training = Training::new(kind, directory.path(), 100_000);
    let (mut found, mut furthest, mut started) = (Found::default(), 0, Vec::new());
    for _ in 0..kills() {
        started.push(SystemTime::now());
        kill(&training, random, Signal::KILL);
        let checkpoints = training.checkpoints();
        let looks = looks_newest(&training);
        training.resume = match kind {
            Kind::Scai => {
                assert_eq!(newest(&checkpoints).unwrap().map_or(0, |found| found.skipped.len()), 0);
                looks
            }
            Kind::Burn => complete_of_burn(&checkpoints),
        };
        found.nothing += usize::from(training.resume.is_none());
        if looks != training.resume {
            let attempt = Training { resume: looks, epochs: looks.unwrap(), ..training.clone() };
            found.could_not_go_on += usize::from(attempt.run().is_err());
        }
        let Some(epoch) = training.resume else { continue };
        if kind == Kind::Burn {
            let process = |part: &&str| {
                let file = checkpoints.join(format!("{part}-{epoch}.bpk"));
                let written = fs::metadata(file).unwrap().modified().unwrap();
                started.iter().rposition(|start| *start <= written)
            };
            let processes: BTreeSet<_> = FILES.iter().map(process).collect();
            found.mixed += usize::from(processes.len() > 1);
        }
        found.went_back += usize::from(epoch < furthest);
        furthest = furthest.max(epoch);
    }
    training.epochs = furthest + 2;
    let ended = training.run().unwrap();

    let straight = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let straight = Training::new(kind, straight.path(), training.epochs).run().unwrap();
    let epoch = begun.elapsed() / u32::try_from(training.epochs).unwrap();
    found.other_bits = ended != straight;
    // What nobody will ever delete: all but the two epochs that are kept, and the lock.
    let kept = 6 + usize::from(kind == Kind::Scai) * (2 + 1);
    let left = names(&training.checkpoints()).len() - kept;
    println!(
        "of {} kills | {kind:?}: {found:?}, {left} names left over; {epoch:.1?} an epoch",
        kills()
    );
    found
}

#[test]
fn killed_at_random_moments_a_training_goes_on_from_the_newest_epoch_and_ends_with_the_same_bits() {
    let mut random = Random::new();
    assert_eq!(kill_and_go_on(Kind::Scai, &mut random), Found::default());
    if kills() == 30 {
        kill_and_go_on(Kind::Burn, &mut random);
    }
}

#[test]
fn dead_before_any_one_of_the_three_saves_no_half_epoch_is_seen() {
    for (part, name) in FILES.into_iter().enumerate() {
        for kind in [Kind::Scai, Kind::Burn] {
            let directory = tempfile::tempdir().unwrap();
            let training =
                Training { die: Some((part, 3)), ..Training::new(kind, directory.path(), 4) };
            assert!(training.run().is_err());
            let checkpoints = training.checkpoints();
            let resume = looks_newest(&training);
            println!("dead before {name}-3 | {kind:?}: {:?}", names(&checkpoints));
            let again = Training { die: None, resume, ..training };
            match kind {
                Kind::Scai => {
                    assert_eq!(epochs(&checkpoints), [1, 2]);
                    assert_eq!(resume, Some(2));
                    let straight = tempfile::tempdir().unwrap();
                    let straight = Training::new(kind, straight.path(), 4).run();
                    assert_eq!(again.run(), straight);
                    // What the dead process has left was swept.
                    assert_eq!(names(&checkpoints).len(), 2 + 6 + 1, "{:?}", names(&checkpoints));
                }
                // Without the model nothing shows that there was an epoch 3.
                Kind::Burn if part == 0 => assert_eq!(resume, Some(2)),
                Kind::Burn => {
                    assert_eq!(resume, Some(3));
                    let error = again.run().unwrap_err();
                    println!("  {}", error.lines().find(|line| line.contains("load")).unwrap());
                }
            }
        }
    }
}

/// A first process dies when it has saved all but the model of epoch 3; a second one, with other data, when
/// it has saved all but the optimizer of it.
#[test]
fn two_processes_that_die_never_leave_an_epoch_of_parts_of_both() {
    for kind in [Kind::Scai, Kind::Burn] {
        let directory = tempfile::tempdir().unwrap();
        let first = Training { die: Some((0, 3)), ..Training::new(kind, directory.path(), 3) };
        assert!(first.run().is_err());
        let checkpoints = first.checkpoints();
        let optimizer = fs::read(checkpoints.join("optim-3.bpk")).ok();
        let resume = looks_newest(&first);
        assert_eq!(resume, Some(2));
        let second = Training { die: Some((1, 3)), seed: 1, resume, ..first };
        assert!(second.run().is_err());
        match kind {
            Kind::Scai => {
                assert_eq!(optimizer, None);
                assert_eq!(looks_newest(&second), Some(2));
            }
            Kind::Burn => {
                assert_eq!(complete_of_burn(&checkpoints), Some(3));
                assert_eq!(fs::read(checkpoints.join("optim-3.bpk")).ok(), optimizer);
                let mixed = Training { die: None, resume: Some(3), epochs: 4, ..second }.run();
                println!(
                    "model of one process, optimizer of another | burn: goes on: {}",
                    mixed.is_ok()
                );
            }
        }
    }
}

/// burn's strategy for the best epoch deletes the last best one before it saves the new one.
#[test]
fn with_only_the_best_epoch_kept_there_is_always_one() {
    for kind in [Kind::Scai, Kind::Burn] {
        let directory = tempfile::tempdir().unwrap();
        let training =
            Training { die: Some((0, 2)), best: true, ..Training::new(kind, directory.path(), 2) };
        assert!(training.run().is_err());
        println!("only the best, dead in a save | {kind:?}: {:?}", names(&training.checkpoints()));
        match kind {
            Kind::Scai => assert_eq!(looks_newest(&training), Some(1)),
            Kind::Burn => assert_eq!(complete_of_burn(&training.checkpoints()), None),
        }
    }
}

#[test]
fn after_ctrl_c_in_a_save_the_newest_epoch_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut training = Training::new(Kind::Scai, directory.path(), 100_000);
    let mut random = Random::new();
    for _ in 0..3 {
        let before = training.resume;
        kill(&training, &mut random, Signal::INT);
        training.resume = looks_newest(&training);
        assert!(training.resume > before, "{:?} after {before:?}", training.resume);
    }
}
