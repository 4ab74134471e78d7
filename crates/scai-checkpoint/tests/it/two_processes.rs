//! Several processes save, load and prune in one directory, and are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use scai_checkpoint::manager::Residency;
use scai_checkpoint::verify::Verification;
use scai_checkpoint::{Checkpoint, CheckpointManager, Error, Options};

use crate::child::{Ended, Process, command, say, wait_to_go};
use crate::training::{Random, Save, Size, full, iteration, name, open, save_of, state};

const SIZE: Size = Size::Medium;
const KEEP: u64 = 3;
/// Every so many iterations, one is kept for ever.
const EVERY: u64 = 20;

fn options() -> Options {
    Options::default().retention(format!("last:{KEEP}, every:{EVERY}").parse().unwrap())
}

/// What a child does, by its role.
pub(crate) fn child(role: &str, directory: &Path) {
    match role {
        "writer 0" => write_for_ever(directory, 0),
        "writer 1" => write_for_ever(directory, 1),
        "reader" => read_for_ever(directory),
        role => panic!("{role}"),
    }
}

/// A child: goes on from the newest checkpoint, and gives the directory to others now and then.
///
/// One writer saves even iterations and one odd ones, so that each has one author.
fn write_for_ever(directory: &Path, parity: u64) {
    let writer = u64::from(std::process::id());
    let mut random = Random(writer);
    wait_to_go();
    loop {
        let manager = open(directory, options());
        say("opened");
        for _ in 0..=random.below(6) {
            let resumed = match manager.resume() {
                Ok(Some(resumed)) => resumed,
                other => return say(&format!("wrong: a resume gives {other:?}")),
            };
            let newest = match save_of(&resumed.checkpoint, SIZE) {
                Ok(save) if resumed.skipped.is_empty() => save.iteration,
                other => return say(&format!("wrong: {other:?}, {:?}", resumed.skipped)),
            };
            let iteration = newest + if newest % 2 == parity { 2 } else { 1 };
            // Said before, since a kill may come at once.
            say(&format!("begun {iteration}"));
            match manager.save(state(Save { iteration, writer }, SIZE)) {
                // Another process may have saved between the resume and the save.
                Ok(saved) if saved.warnings.iter().all(is_of_a_step_back) => {
                    say(&format!("acknowledged {iteration}"));
                }
                Err(error @ Error::Locked { .. }) => {
                    say(&format!("locked: {error}"));
                    break;
                }
                other => return say(&format!("wrong: a save gives {other:?}")),
            }
        }
        drop(manager);
        thread::sleep(Duration::from_millis(random.below(4)));
    }
}

fn is_of_a_step_back(warning: &Error) -> bool {
    warning.to_string().contains("was saved below")
}

/// A child: looks at everything, all the time. Only what is pruned may be gone.
fn read_for_ever(directory: &Path) {
    let manager = open(directory, Options::default());
    let mut lazy: Vec<(Save, Checkpoint)> = Vec::new();
    wait_to_go();
    loop {
        match look(&manager, &mut lazy) {
            Ok(read) => say(&format!("read {read}")),
            Err(why) => return say(&format!("wrong: {why}")),
        }
    }
}

/// Loads, verifies and resumes; how many checkpoints were read whole.
fn look(manager: &CheckpointManager, lazy: &mut Vec<(Save, Checkpoint)>) -> Result<usize, String> {
    let text = |error: Error| error.to_string();
    let mut read = 0;
    let listed = manager.list().map_err(text)?;
    if let Some(bad) = listed.iter().find(|listed| listed.problem.is_some()) {
        return Err(format!("{} is listed with {:?}", bad.name, bad.problem));
    }
    for file in listed.iter().map(|listed| listed.name.as_str()).chain(["latest.pt"]) {
        for residency in [Residency::Memory, Residency::Disk] {
            let checkpoint = match manager.load(file, residency) {
                Err(Error::NotFound { .. }) if file != "latest.pt" => continue,
                result => result.map_err(text)?,
            };
            let save = save_of(&checkpoint, SIZE).map_err(|why| format!("{file}: {why}"))?;
            if iteration(file).is_some_and(|iteration| iteration != save.iteration) {
                return Err(format!("{file} holds {save:?}"));
            }
            if residency == Residency::Disk {
                lazy.push((save, checkpoint));
            }
            read += 1;
        }
        let Verification { damage, .. } = manager.verify(file).map_err(text)?;
        if damage.iter().any(|damage| !matches!(damage, Error::NotFound { .. })) {
            return Err(format!("{file} does not verify: {damage:?}"));
        }
    }
    let resumed = manager.resume().map_err(text)?.ok_or("there is nothing to resume from")?;
    save_of(&resumed.checkpoint, SIZE)?;
    // What was opened some cycles ago is gone by now, and still what it was.
    while lazy.len() > 40 {
        let (save, checkpoint) = lazy.remove(0);
        let found = save_of(&checkpoint, SIZE);
        if found != Ok(save) {
            return Err(format!("a file that was {save:?} when it was opened is {found:?}"));
        }
    }
    Ok(read + 1)
}

/// What the test knows, and what it has counted.
#[derive(Default)]
struct Knowledge {
    /// Who began each iteration, in order, and who acknowledged it.
    begun: BTreeMap<u64, Vec<u64>>,
    acknowledged: BTreeMap<u64, u64>,
    /// What each manager saved: its process, and the iterations.
    managers: Vec<(u64, BTreeSet<u64>)>,
    processes: BTreeSet<u64>,
    interrupted: usize,
    locked: usize,
    read: u64,
}

impl Knowledge {
    fn learn(&mut self, id: u64, ended: &Ended) {
        let last = ended.said.last();
        self.interrupted += usize::from(last.is_some_and(|said| said.starts_with("begun")));
        for said in &ended.said {
            let number =
                |word: &str| said.strip_prefix(word).and_then(|number| number.parse().ok());
            if said == "opened" {
                self.managers.push((id, BTreeSet::new()));
            } else if let Some(iteration) = number("begun ") {
                self.begun.entry(iteration).or_default().push(id);
            } else if let Some(iteration) = number("acknowledged ") {
                assert_eq!(self.acknowledged.insert(iteration, id), None, "{iteration} twice");
                self.managers.last_mut().unwrap().1.insert(iteration);
            } else if let Some(read) = number("read ") {
                self.read += read;
            } else if let Some(error) = said.strip_prefix("locked: ") {
                self.locked += 1;
                let holder = error.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
                let holder = holder.and_then(|id| id.parse().ok()).unwrap_or_default();
                // Between taking the lock and signing it, it bears no name.
                let named = self.processes.contains(&holder) && holder != id;
                assert!(named || !error.contains("process"), "{error}");
                assert!(error.contains("is in use by another writer"), "{error}");
            } else {
                panic!("process {id}: {said}");
            }
        }
    }

    fn has_seen_enough(&self, rounds: usize) -> bool {
        self.acknowledged.len() > rounds
            && self.locked > rounds / 4
            && self.interrupted > rounds / 4
            && self.read > 0
    }

    /// Nothing is mixed, nothing live is gone, nothing acknowledged is lost.
    fn check(&mut self, directory: &Path) {
        let manager = open(directory, Options::default());
        let listed = manager.list().unwrap();
        for listed in &listed {
            let checkpoint = manager.load(&listed.name, Residency::Memory).unwrap();
            let save = save_of(&checkpoint, SIZE).unwrap();
            let authors = &self.begun[&save.iteration];
            assert!(authors.contains(&save.writer), "{save:?}, begun by {authors:?}");
            if let Some(author) = self.acknowledged.get(&save.iteration) {
                assert_eq!(save.writer, *author, "{save:?} was acknowledged to somebody else");
            } else if let Some((_, saved)) =
                self.managers.iter_mut().rfind(|(id, _)| *id == save.writer)
            {
                // Interrupted, but in place.
                saved.insert(save.iteration);
            }
        }
        let present: BTreeSet<u64> = listed.iter().map(|listed| listed.iteration).collect();
        let promised = self.acknowledged.keys().copied();
        let all: BTreeSet<u64> = promised.chain(present.iter().copied()).collect();
        let kept =
            all.iter().rev().take(KEEP as usize).chain(all.iter().filter(|i| *i % EVERY == 0));
        for kept in kept {
            let stays = kept % EVERY == 0 || !self.was_displaced(*kept, &all);
            assert!(present.contains(kept) || !stays, "`{}` is gone", name(*kept));
        }
        let resumed = manager.resume().unwrap().unwrap();
        assert_eq!(resumed.checkpoint.iteration, *present.last().unwrap());
    }

    /// Whether a manager that went back behind an iteration, since it had resumed before that one was
    /// saved, has by now passed it: of the last ones, those that it saved itself come first.
    fn was_displaced(&self, iteration: u64, all: &BTreeSet<u64>) -> bool {
        self.managers.iter().any(|(_, saved)| {
            let went_back = saved.range(..iteration).next().is_some();
            let passed_it = saved.range(iteration + 1..).next().is_some();
            let others = all.iter().rev().filter(|other| !saved.contains(other));
            let mut last = saved.iter().rev().chain(others).take(KEEP as usize);
            went_back && passed_it && !last.any(|last| *last == iteration)
        })
    }
}

fn start(role: &str, directory: &Path, known: &mut Knowledge) -> (u64, Process) {
    let mut process = Process::start(command(&format!("two processes: {role}"), directory));
    process.wait_until_ready();
    process.go();
    known.processes.insert(u64::from(process.id()));
    (u64::from(process.id()), process)
}

#[test]
fn processes_that_share_a_directory_and_are_killed_harm_nothing() {
    let rounds = if full() { 400 } else { 40 };
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let begin = Instant::now();
    let mut known = Knowledge::default();
    let first = Save { iteration: 1, writer: 1 };
    open(directory, options()).save(state(first, SIZE)).unwrap();
    known.begun.insert(1, vec![1]);
    known.acknowledged.insert(1, 1);
    let mut random = Random(7);
    let span = time_of_a_save(directory, &mut known) * 8;
    let mut reader = None;
    let mut round = 0;
    // On a busy machine more rounds are needed for everything to happen that is to be survived.
    while round < rounds || (round < 10 * rounds && !known.has_seen_enough(rounds)) {
        round += 1;
        let (id, mut reading) =
            reader.take().unwrap_or_else(|| start("reader", directory, &mut known));
        let mut writers: Vec<_> = ["writer 0", "writer 1"]
            .into_iter()
            .map(|role| start(role, directory, &mut known))
            .collect();
        // One is killed while the other goes on, and that one a little later.
        for _ in 0..2 {
            thread::sleep(span.mul_f64(random.below(1000) as f64 / 1000.0));
            let (id, mut process) = writers.remove(random.below(writers.len() as u64) as usize);
            process.kill();
            known.learn(id, &process.end());
        }
        if random.below(4) == 0 || round >= rounds {
            reading.kill();
            known.learn(id, &reading.end());
        } else {
            reader = Some((id, reading));
        }
        known.check(directory);
    }
    println!(
        "two writers and a reader in one directory, {round} rounds of two kills: {} saves \
         acknowledged and 0 lost, {} interrupted, {} times locked out; {} checkpoints read \
         meanwhile, 0 torn; {:.1} s",
        known.acknowledged.len(),
        known.interrupted,
        known.locked,
        known.read,
        begin.elapsed().as_secs_f64()
    );
    assert!(known.has_seen_enough(rounds), "too little happened");
}

fn time_of_a_save(directory: &Path, known: &mut Knowledge) -> Duration {
    let manager = open(directory, options());
    let start = Instant::now();
    for iteration in 2..=6 {
        manager.save(state(Save { iteration, writer: 1 }, SIZE)).unwrap();
        known.begun.insert(iteration, vec![1]);
        known.acknowledged.insert(iteration, 1);
    }
    start.elapsed() / 5
}

#[test]
fn managers_of_one_process_take_turns() {
    let directory = tempfile::tempdir().unwrap();
    let rounds = if full() { 300 } else { 30 };
    thread::scope(|scope| {
        for writer in 0..2 {
            let directory = directory.path();
            scope.spawn(move || {
                let manager = open(directory, options());
                for round in 1..=rounds {
                    let iteration = round * 2 + writer;
                    let saved = manager.save(state(Save { iteration, writer }, SIZE)).unwrap();
                    // The other one may be ahead.
                    let mut warnings = saved.warnings.iter().map(ToString::to_string);
                    assert!(warnings.all(|warning| warning.contains("was saved below")));
                    let resumed = manager.resume().unwrap().unwrap();
                    assert!(
                        resumed.checkpoint.iteration >= iteration && resumed.skipped.is_empty()
                    );
                    save_of(&resumed.checkpoint, SIZE).unwrap();
                }
            });
        }
    });
    let manager = open(directory.path(), Options::default());
    let listed = manager.list().unwrap();
    let kept: Vec<u64> =
        listed.iter().rev().take(KEEP as usize).map(|listed| listed.iteration).collect();
    assert_eq!(kept, [rounds * 2 + 1, rounds * 2, rounds * 2 - 1]);
    for listed in &listed {
        let checkpoint = manager.load(&listed.name, Residency::Memory).unwrap();
        assert_eq!(save_of(&checkpoint, SIZE).unwrap().writer, listed.iteration % 2);
    }
}
