//! Real checkpoints after a power failure, in every state a simulated disk can come back in.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use scai_checkpoint::manager::Prune;
use scai_checkpoint::store::{Directory, Store, is_draft};
use scai_checkpoint::testing::{
    CrashReport, CrashState, Effect, Failure, Fault, FaultDirectory, Op, SimulatedDisk, Times,
};
use scai_checkpoint::{CheckpointManager, Error, Options, Retention};

use crate::aftermath::{Promised, Removed};
use crate::careless::{Careless, Mistake, Overwrite};
use crate::support::over;
use crate::training::{Save, Size, full, name, save_of, save_under, state};

pub(crate) const SIZE: Size = Size::Small;
pub(crate) const KEEP: u64 = 2;

/// A disk with a manager on it, and what was promised at each moment.
pub(crate) struct Bench {
    pub(crate) disk: SimulatedDisk,
    manager: CheckpointManager,
    /// What was promised once so many steps were done.
    promises: Vec<(usize, Promised)>,
}

impl Bench {
    fn new(store: impl FnOnce(SimulatedDisk) -> Arc<dyn Store>) -> Self {
        Self::on(SimulatedDisk::new(), store)
    }

    fn on(disk: SimulatedDisk, store: impl FnOnce(SimulatedDisk) -> Arc<dyn Store>) -> Self {
        let promised = Promised::new(SIZE, KEEP);
        let manager = CheckpointManager::with_store(store(disk.clone()), promised.options());
        Self { disk, manager, promises: vec![(0, promised)] }
    }

    pub(crate) fn sound() -> Self {
        Self::new(|disk| over(disk))
    }

    fn save(&mut self, iteration: u64, writer: u64) {
        let save = Save { iteration, writer };
        self.begin(save);
        let saved = self.manager.save(state(save, SIZE)).unwrap();
        let mut warnings = saved.warnings.iter().map(ToString::to_string);
        assert!(warnings.all(|warning| warning.contains("was saved below")));
        self.acknowledge(save);
    }

    pub(crate) fn begin(&mut self, save: Save) {
        self.promise(|promised, disk| {
            promised.begun.insert(save);
            disk.begin(&name(save.iteration), save.writer);
        });
    }

    pub(crate) fn acknowledge(&mut self, save: Save) {
        self.promise(|promised, disk| {
            promised.acknowledge(save);
            disk.acknowledge(&name(save.iteration), save.writer);
        });
    }

    /// Changes what is promised from now on. The note on the disk has each state checked anew.
    fn promise(&mut self, change: impl FnOnce(&mut Promised, &SimulatedDisk)) {
        let mut promised = self.promises.last().unwrap().1.clone();
        change(&mut promised, &self.disk);
        self.promises.push((self.disk.steps(), promised));
    }

    /// Checks every state after a power failure at any moment.
    fn crash(&self) -> CrashReport {
        self.disk.crash_everywhere(|crash| {
            let promised = self.promises.iter().rev().find(|(steps, _)| *steps <= crash.step);
            check(crash, &mut promised.unwrap().1.clone())
        })
    }

    pub(crate) fn assert_safe(&self, what: &str) -> CrashReport {
        let start = Instant::now();
        let report = self.crash();
        println!("{what}: {report}; {:.1} s", start.elapsed().as_secs_f64());
        assert_eq!(report.bad, 0, "{what}: {report}");
        report
    }

    /// A writer that is known to be wrong must be seen to be wrong, by the crashes alone.
    pub(crate) fn assert_caught(&self, what: &str) {
        let files = names(&self.disk);
        let promised = &self.promises.last().unwrap().1;
        let manager = CheckpointManager::with_store(over(self.disk.clone()), Options::default());
        promised.check_files(&manager, files, Removed::Gone).unwrap();
        let report = self.crash();
        let text = report.to_string();
        let told: String =
            text.lines().take(2).collect::<Vec<_>>().join("\n").chars().take(400).collect();
        println!("broken writer ({what}): {told}");
        assert!(report.bad > 0, "{what} was not noticed: {report}");
    }
}

pub(crate) fn names(store: &dyn Directory) -> Vec<String> {
    store.list().unwrap().into_iter().map(|entry| entry.name).collect()
}

/// Everything that was promised holds, the next process goes on, and it leaves no draft.
fn check(crash: &CrashState<'_>, promised: &mut Promised) -> Result<(), String> {
    let store = &crash.directory;
    let manager = CheckpointManager::with_store(over(store.clone()), promised.options());
    promised.check_files(&manager, names(store), Removed::MayComeBackAsGarbage)?;
    let newest = promised.begun.last().map_or(0, |save| save.iteration);
    let next = Save { iteration: newest + 1, writer: 1 };
    let saved = manager.save(state(next, SIZE)).map_err(|error| error.to_string())?;
    // What came back as garbage is told of, and is no failure.
    if saved.warnings.iter().any(|warning| !matches!(warning, Error::Damaged { .. })) {
        return Err(format!("next save: {:?}", saved.warnings));
    }
    promised.acknowledge(next);
    promised.check_files(&manager, names(store), Removed::MayComeBackAsGarbage)?;
    match names(store).iter().find(|name| is_draft(name)) {
        Some(draft) => Err(format!("the draft `{draft}` is left")),
        None => Ok(()),
    }
}

#[test]
fn a_run_that_saves_and_prunes_always_has_what_was_acknowledged() {
    let mut bench = Bench::sound();
    for iteration in 1..=if full() { 40 } else { 5 } {
        bench.save(iteration, 1);
    }
    assert_eq!(names(&bench.disk).len() as u64, KEEP + 1);
    let report = bench.assert_safe("saves, latest and retention");
    assert!(report.states > 20, "too few states to mean anything: {report}");
}

#[test]
fn a_run_where_drafts_have_names_is_as_safe() {
    let mut bench = Bench::on(SimulatedDisk::with_named_drafts(), |disk| over(disk));
    for iteration in 1..=if full() { 40 } else { 5 } {
        bench.save(iteration, 1);
    }
    let report = bench.assert_safe("saves, latest and retention, with named drafts");
    assert!(report.states > 500, "too few states to mean anything: {report}");
    let mut bench = Bench::on(SimulatedDisk::with_named_drafts(), |disk| over(disk));
    for writer in 1..=3 {
        bench.save(100, writer);
    }
    bench.assert_safe("saves over one iteration, with named drafts");
}

#[test]
fn a_run_where_latest_is_a_copy_is_as_safe() {
    let mut bench = Bench::new(|disk| {
        let store = FaultDirectory::new(disk);
        let concerns = |op: &Op| matches!(op, Op::Link { .. });
        let effect = Effect::Fail(Failure::Kind(io::ErrorKind::Unsupported));
        store.arm(Fault { concerns, after: 0, times: Times::FromThenOn, effect });
        over(store)
    });
    for iteration in 1..=if full() { 20 } else { 4 } {
        bench.save(iteration, 1);
    }
    bench.assert_safe("saves, with latest as a copy");
}

#[test]
fn saves_over_one_iteration_leave_the_old_state_or_the_new_one() {
    let mut bench = Bench::sound();
    for writer in 1..=if full() { 6 } else { 3 } {
        bench.save(100, writer);
    }
    bench.save(200, 1);
    bench.save(100, 9);
    bench.assert_safe("saves over one iteration");
}

#[test]
fn a_damaged_checkpoint_is_never_lost_while_a_resume_sets_it_aside() {
    let mut bench = Bench::sound();
    for iteration in 1..=2 {
        bench.save(iteration, 1);
    }
    // The disk damages the newest.
    let damaged = b"not what was saved".as_slice();
    let file = bench.disk.overwrite(&name(2), damaged.len() as u64).unwrap();
    file.write_at(0, damaged).unwrap();
    file.sync().unwrap();
    bench.disk.sync().unwrap();
    let before = bench.disk.steps();
    let resumed = bench.manager.resume().unwrap().unwrap();
    assert_eq!((resumed.iterations_lost, resumed.skipped.len()), (1, 1));
    let aside = "checkpoint_iter_2.pt.damaged";
    let report = bench.disk.crash_from(before, |crash| {
        let found = [name(2).as_str(), aside].map(|name| crash.directory.get(name));
        if found.iter().flatten().filter(|bytes| *bytes == damaged).count() != 1 {
            return Err(format!("the damaged file is gone: {:?}", names(&crash.directory)));
        }
        let manager =
            CheckpointManager::with_store(over(crash.directory.clone()), Options::default());
        let resumed = manager.resume().map_err(|error| error.to_string())?.ok_or("nothing")?;
        let save = save_of(&resumed.checkpoint, SIZE)?;
        let latest = save_under(&manager, "latest.pt", SIZE);
        // The link that `latest.pt` was is the file that the disk damaged.
        if save.iteration != 1 || latest.is_ok_and(|latest| latest != Some(save)) {
            return Err(format!("resumed {save:?}"));
        }
        match crash.directory.get(aside) {
            Some(bytes) if bytes == damaged => Ok(()),
            other => Err(format!("{:?} bytes were set aside", other.map(|bytes| bytes.len()))),
        }
    });
    println!("a resume that sets aside: {report}");
    assert_eq!(report.bad, 0, "{report}");
}

#[test]
fn an_acknowledged_pin_holds_and_a_pinned_checkpoint_is_never_lost() {
    let mut bench = Bench::sound();
    bench.save(1, 1);
    bench.manager.pin(name(1)).unwrap();
    let pinned = bench.disk.steps();
    for iteration in 2..=4 {
        let save = Save { iteration, writer: 1 };
        bench.manager.save(state(save, SIZE)).unwrap();
    }
    let report = bench.disk.crash_from(pinned, |crash| {
        let manager =
            CheckpointManager::with_store(over(crash.directory.clone()), Options::default());
        manager
            .prune(&Retention::keep_last(1).unwrap(), Prune::Remove)
            .map_err(|error| error.to_string())?;
        match save_under(&manager, &name(1), SIZE)? {
            Some(Save { iteration: 1, .. }) => Ok(()),
            other => Err(format!("the pinned checkpoint is {other:?}")),
        }
    });
    println!("a pinned checkpoint: {report}");
    assert_eq!(report.bad, 0, "{report}");
}

#[test]
fn a_disk_that_forgets_a_write_costs_the_new_save_and_no_old_one() {
    let disk = SimulatedDisk::new();
    let store = FaultDirectory::new(disk.clone());
    let options = Promised::new(SIZE, KEEP).options();
    let manager = CheckpointManager::with_store(over(store.clone()), options);
    for iteration in 1..=2 {
        manager.save(state(Save { iteration, writer: 1 }, SIZE)).unwrap();
    }
    let before = disk.steps();
    for after in 0..2 {
        let concerns = |op: &Op| matches!(op, Op::Write { .. });
        store.arm(Fault { concerns, after, times: Times::Once, effect: Effect::Forget });
        let error = manager.save(state(Save { iteration: 3, writer: 1 }, SIZE)).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("cannot be read back"), "{error}");
        store.disarm();
    }
    let report = disk.crash_from(before, |crash| {
        let manager =
            CheckpointManager::with_store(over(crash.directory.clone()), Options::default());
        let resumed = manager.resume().map_err(|error| error.to_string())?.ok_or("nothing")?;
        let found =
            [save_of(&resumed.checkpoint, SIZE).map(Some), save_under(&manager, &name(1), SIZE)];
        let expected = [2, 1].map(|iteration| Ok(Some(Save { iteration, writer: 1 })));
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
    println!("writes that are forgotten: {report}");
    assert_eq!(report.bad, 0, "{report}");
}

// Writers that are wrong in one way each. The same checks must see every one of them.

impl Overwrite for SimulatedDisk {
    fn overwrite_with(&self, from: &str, to: &str) -> io::Result<()> {
        let from = self.open(from)?;
        let mut bytes = vec![0; from.len() as usize];
        from.read_at(0, &mut bytes)?;
        let file = self.overwrite(to, from.len())?;
        file.write_at(0, &bytes)?;
        // What it renames in the end has its name already.
        file.sync().map(drop)
    }
}

fn run(mut bench: Bench) -> Bench {
    for iteration in 1..=3 {
        bench.save(iteration, 1);
    }
    bench
}

#[test]
fn a_writer_that_forgets_to_sync_is_caught() {
    let file: fn(&Op) -> bool = |op| matches!(op, Op::SyncDraft { .. });
    let directory = |op: &Op| matches!(op, Op::SyncNames);
    for (what, concerns) in [("no sync of the file", file), ("of the directory", directory)] {
        let bench = Bench::new(|disk| {
            let store = FaultDirectory::new(disk);
            store.arm(Fault {
                concerns,
                after: 0,
                times: Times::FromThenOn,
                effect: Effect::Forget,
            });
            over(store)
        });
        run(bench).assert_caught(what);
    }
}

#[test]
fn a_writer_in_place_and_one_that_deletes_first_are_caught_by_power_failures() {
    for mistake in [Mistake::InPlace, Mistake::DeleteFirst] {
        let bench = Bench::new(|store| over(Careless { store, mistake }));
        run(bench).assert_caught(&format!("{mistake:?}"));
    }
}
