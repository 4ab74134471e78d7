//! Checkpoints of shards after a power failure, and while single operations fail.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use scai_checkpoint::codec::dcp::METADATA;
use scai_checkpoint::folder::{Bound, COMMIT};
use scai_checkpoint::shards;
use scai_checkpoint::store::{Directory, MemoryDirectory, Publication};
use scai_checkpoint::testing::{
    CrashReport, CrashState, Effect, Failure, Fault, FaultDirectory, Op, SimulatedDisk, Times,
    publish_entry, remove_child_durably, remove_durably,
};
use scai_checkpoint::{Error, Result};

use crate::shards_view::{
    RANKS, Trust, View, assert_tidy, commit, id, make, save_in, scai, shard_name, stock, write,
};

const NAME: &str = "checkpoint_iter_7";

/// An attempt after a crash.
const NEXT: u64 = 9;

/// The attempts that a reader may find; 0 stands for none.
type Allowed = &'static [u64];

fn allows(allowed: Allowed, who: &str, view: &View) -> Result<(), String> {
    let found = match view {
        View::Nothing => 0,
        View::Whole(attempt) => *attempt,
        wrong => return Err(format!("{who}: {wrong:?}")),
    };
    let fits = allowed.contains(&found);
    fits.then_some(()).ok_or_else(|| format!("{who} finds {found}, not one of {allowed:?}"))
}

fn both_allow(allowed: Allowed, directory: &dyn Directory, trust: Trust) -> Result<(), String> {
    allows(allowed, "scai", &scai(directory, trust))?;
    allows(allowed, "the stock reader", &stock(directory))
}

/// What holds after any crash: both readers find one allowed attempt; also once the next one has begun, which
/// then succeeds and leaves nothing of others.
fn check(state: &CrashState<'_>, allowed: Allowed, trust: Trust) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    if let Ok(child) = state.directory.child(NAME) {
        both_allow(allowed, &*child, trust)?;
        let begun = shards::begin_with_id(Arc::clone(&child), id(NEXT)).map_err(text)?;
        both_allow(allowed, &*child, trust).map_err(|why| format!("the next has begun: {why}"))?;
        drop(begun);
    } else if !allowed.contains(&0) {
        return Err("the directory is lost".to_owned());
    }
    let child = make(&state.directory, NAME).map_err(text)?;
    save_in(&child, NEXT).map_err(text)?;
    both_allow(&[NEXT], &*child, trust)?;
    assert_tidy(&*child)
}

/// What crashes leave while attempts are made on a disk, with what was allowed at each time.
struct Proof {
    disk: SimulatedDisk,
    trust: Trust,
    reports: Vec<CrashReport>,
}

impl Proof {
    fn new(disk: SimulatedDisk) -> Self {
        Self { disk, trust: Trust::Digests, reports: Vec::new() }
    }

    /// Crashes at every moment of `act`, and after it.
    fn during(&mut self, allowed: Allowed, then: Allowed, act: impl FnOnce(&SimulatedDisk)) {
        let before = self.disk.steps();
        act(&self.disk);
        let trust = self.trust;
        let during = self.disk.crash_from(before, |state| check(state, allowed, trust));
        let after = self.disk.crash_from(self.disk.steps(), |state| check(state, then, trust));
        self.reports.extend([during, after]);
    }

    fn bad(&self) -> usize {
        self.reports.iter().map(|report| report.bad).sum()
    }

    fn states(&self) -> usize {
        self.reports.iter().map(|report| report.states).sum()
    }

    #[track_caller]
    fn assert_safe(&self, what: &str) {
        println!("{what}: {} crash states, {} bad", self.states(), self.bad());
        for report in &self.reports {
            assert_eq!(report.bad, 0, "{what}: {report}");
            assert!(report.states > 0, "{what}: {report}");
        }
    }

    #[track_caller]
    fn assert_caught(&self, what: &str) {
        println!("{what}: {} crash states, {} bad", self.states(), self.bad());
        assert!(self.bad() > 0, "{what} was not noticed: {:?}", self.reports);
    }
}

fn disks() -> [(&'static str, SimulatedDisk); 2] {
    [("unnamed drafts", SimulatedDisk::new()), ("named drafts", SimulatedDisk::with_named_drafts())]
}

/// A whole attempt whose directory `parent` is on the disk.
fn save(parent: &dyn Directory, attempt: u64) -> Result<()> {
    save_in(&make(parent, NAME)?, attempt).map(drop)
}

#[test]
fn after_a_power_failure_a_checkpoint_of_shards_is_one_whole_attempt() {
    for (what, disk) in disks() {
        let mut proof = Proof::new(disk);
        proof.during(&[0, 1], &[1], |disk| save(disk, 1).unwrap());
        proof.during(&[1, 2], &[2], |disk| save(disk, 2).unwrap());
        // A rank is gone, and what the other one wrote is left.
        proof.during(&[2], &[2], |disk| {
            let child = make(disk, NAME).unwrap();
            let begun = shards::begin_with_id(Arc::clone(&child), id(3)).unwrap();
            write(&*child, 3, 0).unwrap();
            drop(begun);
        });
        proof.during(&[2, 4], &[4], |disk| save(disk, 4).unwrap());
        assert_tidy(&*proof.disk.child(NAME).unwrap()).unwrap();
        proof.during(&[0, 4], &[0], |disk| remove_child_durably(disk, NAME).unwrap());
        proof.assert_safe(&format!("attempts over each other, {what}"));
    }
}

/// A directory in which nothing can be published as `.metadata`.
fn without_metadata(disk: SimulatedDisk) -> FaultDirectory<SimulatedDisk> {
    let directory = FaultDirectory::new(disk);
    directory.arm(Fault {
        concerns: |op| {
            matches!(op, Op::Name { to } | Op::Rename { to, .. } if to == &format!("{NAME}/{METADATA}"))
        },
        after: 0,
        times: Times::FromThenOn,
        effect: Effect::Fail(Failure::Kind(ErrorKind::Other)),
    });
    directory
}

/// The next attempt removes the files that `.metadata` names, which nobody has replaced.
#[test]
fn a_metadata_file_that_was_left_behind_is_mended_before_the_files_it_names_are_removed() {
    for (what, disk) in disks() {
        let mut proof = Proof::new(disk);
        proof.during(&[0, 1], &[1], |disk| save(disk, 1).unwrap());
        proof.during(&[1, 2], &[1, 2], |disk| {
            let error = save(&without_metadata(disk.clone()), 2).unwrap_err();
            assert!(error.to_string().contains(METADATA), "{error}");
        });
        proof.during(&[1, 2], &[2], |disk| {
            let child = disk.child(NAME).unwrap();
            assert_eq!(
                (scai(&*child, Trust::Digests), stock(&*child)),
                (View::Whole(2), View::Whole(1))
            );
            drop(shards::begin_with_id(Arc::clone(&child), id(3)).unwrap());
            assert_eq!(stock(&*child), View::Whole(2));
            assert_tidy(&*child).unwrap();
        });
        proof.during(&[2, 4], &[4], |disk| save(disk, 4).unwrap());
        proof.assert_safe(&format!("`.metadata` was left behind, {what}"));
    }
}

#[test]
fn a_commit_whose_metadata_file_is_lost_keeps_its_files_and_the_next_attempt_succeeds() {
    let memory = MemoryDirectory::new();
    save(&memory, 1).unwrap();
    let child = memory.child(NAME).unwrap();
    let named = format!("{}{METADATA}", id(1));
    for harm in [true, false] {
        match harm {
            true => {
                publish_entry(&*child, Publication::of_bytes(&named, b"damaged")).map(drop).unwrap()
            }
            false => child.remove(&named).unwrap(),
        }
        child.remove(METADATA).unwrap();
        write(&*child, 2, 0).unwrap();
        drop(shards::begin_with_id(Arc::clone(&child), id(3)).unwrap());
        child.open(&shard_name(1, 0)).unwrap();
        // Nothing is known of it, so nothing is removed.
        child.open(&shard_name(2, 0)).unwrap();
        save(&memory, 4).unwrap();
        assert_eq!(
            (scai(&*child, Trust::Digests), stock(&*child)),
            (View::Whole(4), View::Whole(4))
        );
        drop(shards::begin_with_id(Arc::clone(&child), id(5)).unwrap());
        assert_tidy(&*child).unwrap();
        child.remove(COMMIT).unwrap();
        drop(shards::begin_with_id(Arc::clone(&child), id(6)).unwrap());
        save(&memory, 1).unwrap();
    }
}

// Writers that are wrong in one way each. The check above must see every one of them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// Shards have names that every attempt has, and are overwritten in place.
    InPlace,
    /// The commit is published before the shards.
    CommitFirst,
    /// Shards have the same names in every attempt, and the commit binds no more than names.
    NamesOnly,
    /// As before with digests, and `.metadata` is published before the commit.
    MetadataFirst,
    /// The name of the directory is not made durable.
    ParentNotSynced,
    /// The content of shards is not made durable.
    ShardsNotSynced,
    /// The names in the directory are not made durable after the commit.
    CommitNotSynced,
    /// The files of the attempt before are removed before the commit.
    RemovedFirst,
}

const MISTAKES: [Mistake; 8] = [
    Mistake::InPlace,
    Mistake::CommitFirst,
    Mistake::NamesOnly,
    Mistake::MetadataFirst,
    Mistake::ParentNotSynced,
    Mistake::ShardsNotSynced,
    Mistake::CommitNotSynced,
    Mistake::RemovedFirst,
];

/// The files of a whole attempt, in the order in which they are to be published.
fn files(attempt: u64, mistake: Mistake) -> Vec<(String, Vec<u8>)> {
    let memory = MemoryDirectory::new();
    let directory: Arc<dyn Directory> = Arc::new(memory.clone());
    let begun = shards::begin_with_id(Arc::clone(&directory), id(attempt)).unwrap();
    let fixed = [Mistake::InPlace, Mistake::NamesOnly, Mistake::MetadataFirst].contains(&mistake);
    let shards: BTreeMap<String, Bound> = (0..RANKS)
        .map(|rank| {
            let (name, bound) = write(&memory, attempt, rank).unwrap();
            if !fixed {
                return (name, bound);
            }
            let same = format!("__{rank}_0.distcp");
            memory.rename(&name, &same).unwrap();
            (same, bound)
        })
        .collect();
    let committed = commit(begun, attempt, shards.clone()).unwrap();
    let named = format!("{}{METADATA}", id(attempt));
    let mut names: Vec<String> = shards.into_keys().chain([named]).collect();
    assert_eq!(names.len(), committed.files.len());
    match mistake {
        Mistake::CommitFirst => names.insert(0, COMMIT.to_owned()),
        Mistake::MetadataFirst => names.extend([METADATA, COMMIT].map(str::to_owned)),
        _ => names.push(COMMIT.to_owned()),
    }
    if mistake != Mistake::MetadataFirst {
        names.push(METADATA.to_owned());
    }
    names.into_iter().map(|name| (name.clone(), memory.get(&name).unwrap())).collect()
}

fn forget(disk: &SimulatedDisk, concerns: fn(&Op) -> bool) -> FaultDirectory<SimulatedDisk> {
    let directory = FaultDirectory::new(disk.clone());
    directory.arm(Fault { concerns, after: 0, times: Times::FromThenOn, effect: Effect::Forget });
    directory
}

fn save_wrongly(disk: &SimulatedDisk, attempt: u64, mistake: Mistake) {
    match mistake {
        Mistake::ParentNotSynced => disk.make_child(NAME).unwrap_or(()),
        _ => drop(make(disk, NAME).unwrap()),
    }
    let child = disk.enter(NAME).unwrap();
    if mistake == Mistake::RemovedFirst && attempt > 1 {
        let old = shards::committed(&child).unwrap().unwrap().files;
        remove_durably(&child, &old.into_keys().collect::<Vec<_>>()).unwrap();
    }
    for (name, bytes) in files(attempt, mistake) {
        let forgets = match (mistake, name.as_str()) {
            (Mistake::ShardsNotSynced, name) if name.ends_with(".distcp") => {
                forget(&child, |op| matches!(op, Op::SyncDraft { .. }))
            }
            (Mistake::CommitNotSynced, COMMIT | METADATA) => {
                forget(&child, |op| matches!(op, Op::SyncNames))
            }
            _ => FaultDirectory::new(child.clone()),
        };
        if mistake == Mistake::InPlace && name.ends_with(".distcp") {
            let file = child.overwrite(&name, bytes.len() as u64).unwrap();
            file.write_at(0, &bytes).unwrap();
            file.sync().unwrap();
            child.sync().unwrap();
        } else {
            publish_entry(&forgets, Publication::of_bytes(&name, &bytes)).unwrap();
        }
    }
}

#[test]
fn a_writer_of_shards_that_is_wrong_is_caught() {
    for mistake in MISTAKES {
        let mut proof = Proof::new(SimulatedDisk::new());
        if mistake == Mistake::NamesOnly {
            proof.trust = Trust::Names;
        }
        proof.during(&[0, 1], &[1], |disk| save_wrongly(disk, 1, mistake));
        proof.during(&[1, 2], &[2], |disk| save_wrongly(disk, 2, mistake));
        // What a running process sees is right; only a crash tells.
        let child = proof.disk.child(NAME).unwrap();
        assert_eq!((scai(&*child, proof.trust), stock(&*child)), (View::Whole(2), View::Whole(2)));
        proof.assert_caught(&format!("{mistake:?}"));
    }
}

// Single operations that fail.

/// What came of an attempt whose operation number `after` had the effect; `None` if there was no such one.
fn attempt_with(
    effect: Effect,
    after: usize,
    locks: bool,
) -> Option<(Result<()>, Op, MemoryDirectory)> {
    let memory = MemoryDirectory::new();
    save(&memory, 1).unwrap();
    let inner = FaultDirectory::new(memory.clone());
    if !locks {
        inner.arm(Fault {
            concerns: |op| matches!(op, Op::Hold),
            after: 0,
            times: Times::FromThenOn,
            effect: Effect::Fail(Failure::Kind(ErrorKind::Unsupported)),
        });
    }
    let directory = FaultDirectory::new(inner);
    directory.arm(Fault { concerns: |_| true, after, times: Times::Once, effect });
    let result = save(&directory, 2);
    let hit = directory.log().into_iter().nth(after);
    (directory.fired() > 0).then(|| (result, hit.unwrap(), memory))
}

/// Failures of what is only tidying up do not come out: the next attempt tries it again.
fn may_be_swallowed(op: &Op, done: bool, after_commit: bool) -> bool {
    match op {
        // What is not there, a file or locks, is not there whether or not the call fails anyway.
        Op::Open { .. } | Op::Hold if done => true,
        // These names are taken, and refused anyway.
        Op::MakeChild { .. } => true,
        Op::Name { to } => to.ends_with(COMMIT) || to.ends_with(&format!("/{METADATA}")),
        Op::Remove { .. } => true,
        // What was committed before: needed to remove its files, or to mend `.metadata`.
        Op::Open { name } | Op::Read { name, .. } => {
            name.ends_with(COMMIT) || name.ends_with(&format!("/{METADATA}"))
        }
        Op::SyncChild { .. } => after_commit,
        _ => false,
    }
}

#[test]
fn a_failing_operation_of_an_attempt_comes_out_and_what_was_the_checkpoint_still_is() {
    let (io, full) = (Failure::Os(5), Failure::Kind(ErrorKind::StorageFull));
    let effects = [Effect::Fail(io), Effect::Fail(full), Effect::FailAfter(io), Effect::Tear(full)];
    let mut tried = 0;
    for (effect, locks) in effects.into_iter().flat_map(|effect| [(effect, true), (effect, false)])
    {
        for after in 0.. {
            let Some(failed) = attempt_with(effect, after, locks) else {
                assert!(after > 40, "too few operations: {after}");
                break;
            };
            let (result, hit, memory) = failed;
            check_failed(&result, &hit, effect, &memory)
                .unwrap_or_else(|why| panic!("{effect:?} of {hit:?}, {locks}: {result:?}: {why}"));
            tried += 1;
        }
    }
    println!("{tried} operations failed: each comes out, nothing is lost, the next attempt works");
}

fn check_failed(
    result: &Result<()>,
    hit: &Op,
    effect: Effect,
    memory: &MemoryDirectory,
) -> Result<(), String> {
    let child = memory.child(NAME).unwrap();
    let found = || (scai(&*child, Trust::Digests), stock(&*child));
    let are = |scai, stock| {
        let (found, expected) = (found(), (View::Whole(scai), View::Whole(stock)));
        let fits = found == expected;
        fits.then_some(()).ok_or_else(|| format!("{found:?}, not {expected:?}"))
    };
    let done = matches!(effect, Effect::FailAfter(_));
    let names = |name: &str| {
        let path = format!("{NAME}/{name}");
        matches!(hit, Op::Name { to } | Op::Rename { to, .. } if *to == path)
    };
    match result {
        Ok(()) if !may_be_swallowed(hit, done, found().0 == View::Whole(2)) => {
            return Err("nobody says so".to_owned());
        }
        Ok(()) => are(2, 2)?,
        Err(Error::NotDurable { path, .. }) if path.ends_with(COMMIT) => are(2, 1)?,
        Err(Error::NotDurable { path, .. }) if path.ends_with(METADATA) => are(2, 2)?,
        Err(error) if error.to_string().contains(&format!("{NAME}/{METADATA}")) => {
            are(2, if done && names(METADATA) { 2 } else { 1 })?;
        }
        // A rename that was done and reported as failed.
        Err(_) if done && names(COMMIT) => are(2, 1)?,
        Err(_) => are(1, 1)?,
    }
    // Nobody holds the directory any more, the next attempt works, and it leaves nothing.
    let begun = shards::begin_with_id(Arc::clone(&child), id(3));
    drop(begun.map_err(|error| error.to_string())?);
    if found().0 != found().1 {
        return Err(format!("the next attempt leaves {:?}", found()));
    }
    assert_tidy(&*child)?;
    save(memory, 4).map_err(|error| error.to_string())?;
    are(4, 4)?;
    assert_tidy(&*child)
}
