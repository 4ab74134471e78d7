//! Checkpoints of shards while two jobs save, one is killed, one removes, and somebody reads: every order.
//!
//! A job has two processes, as ranks 0 and 1 of a process group; rank 0 coordinates. Both jobs save to one
//! directory, or the second one saves to another directory and then removes the first one's, as retention
//! does. At every state all that has happened must fit: readers find what was acknowledged, or what came
//! later, in one piece, and the next attempt succeeds whoever was killed.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};

use scai_checkpoint::folder::Bound;
use scai_checkpoint::shards;
use scai_checkpoint::store::{Directory, MemoryDirectory, Publication};
use scai_checkpoint::testing::{publish_entry, remove_child_durably};
use scai_checkpoint::{Error, Result};

use crate::explorer::{Code, Explorer, Found, Notes, Port, World, digest};
use crate::shards_view::{
    Trust, View, assert_tidy, commit, id, make, save_in, scai, shard_name, stock, write,
};
use crate::training::full;

/// Where both jobs save, and the directory of a later checkpoint.
const HERE: &str = "checkpoint_iter_1";
const LATER: &str = "checkpoint_iter_2";

/// Attempts. The one before was committed before anything else; the next one comes after everything.
const BEFORE: usize = 0;
const FIRST: usize = 1;
const SECOND: usize = 2;
const NEXT: usize = 3;
const ATTEMPTS: usize = 4;

/// Processes: two ranks of each job, the reader, and last the process of the next attempt.
const LAST: usize = 5;
const PROCESSES: usize = 6;
const WRITERS: [usize; ATTEMPTS] = [LAST, 0, 2, LAST];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Status {
    Idle,
    Committing,
    /// Its process is gone, or it has returned an error, and it may have committed or not.
    Over,
    Acknowledged,
}

#[derive(Debug, Clone)]
enum Event {
    Committing(usize),
    Acknowledged(usize),
    GaveUp(usize),
    /// The directory is about to be removed.
    Removes,
    Reads,
    Saw(View),
}

/// A set of attempts.
type Set = u8;

/// What was promised, and what the reader saw.
#[derive(Debug, Clone, Hash)]
struct Promises {
    status: [Status; ATTEMPTS],
    /// What was over when an attempt began to commit.
    before: [Set; ATTEMPTS],
    /// The attempt that saves to the other directory.
    elsewhere: Option<usize>,
    removed: bool,
    /// Whether the reader is that of PyTorch.
    is_stock: bool,
    /// What was settled, and what was replaced, when the reader began; whether there was anything.
    reads: Option<(Set, Set, bool)>,
    saw: Option<View>,
}

impl Promises {
    fn new(elsewhere: Option<usize>, reader: Reader) -> Self {
        Self {
            is_stock: reader == Reader::Stock,
            status: [Status::Idle; ATTEMPTS],
            before: [0; ATTEMPTS],
            elsewhere,
            removed: false,
            reads: None,
            saw: None,
        }
    }

    fn set(is_in: impl Fn(usize) -> bool) -> Set {
        (0..ATTEMPTS).filter(|attempt| is_in(*attempt)).fold(0, |set, attempt| set | 1 << attempt)
    }

    fn over(&self) -> Set {
        Self::set(|attempt| matches!(self.status[attempt], Status::Over | Status::Acknowledged))
    }

    /// Attempts that change nothing any more. A later one may still write the `.metadata` of one that was killed.
    fn settled(&self) -> Set {
        let is_over = self.over();
        Self::set(|attempt| {
            is_over >> attempt & 1 == 1 && !(self.is_stock && self.status[attempt] == Status::Over)
        })
    }

    fn is_in(&self, attempt: usize, directory: &str) -> bool {
        (self.elsewhere == Some(attempt)) == (directory == LATER)
    }

    fn acknowledged(&self, directory: &str) -> impl Iterator<Item = usize> {
        let is = |attempt: &usize| {
            self.status[*attempt] == Status::Acknowledged && self.is_in(*attempt, directory)
        };
        (0..ATTEMPTS).filter(is)
    }

    /// Attempts that were over before another one began to commit, which was acknowledged.
    fn replaced(&self, directory: &str) -> Set {
        self.acknowledged(directory).fold(0, |set, attempt| set | self.before[attempt])
    }

    /// What readers may find.
    fn allowed(&self, directory: &str) -> Set {
        let begun = Self::set(|attempt| {
            self.status[attempt] != Status::Idle && self.is_in(attempt, directory)
        });
        begun & !self.replaced(directory)
    }

    /// Whether there must be a checkpoint.
    fn is_promised(&self, directory: &str) -> bool {
        self.acknowledged(directory).next().is_some() && !(self.removed && directory == HERE)
    }

    /// What is wrong with what somebody finds now.
    fn check(&self, directory: &str, view: &View) -> Result<(), String> {
        match view {
            View::Nothing if self.is_promised(directory) => {
                Err(format!("`{directory}` is lost: {self:?}"))
            }
            View::Nothing => Ok(()),
            View::Whole(attempt) if self.allowed(directory) >> attempt & 1 == 1 => Ok(()),
            wrong => Err(format!("`{directory}`: {wrong:?}: {self:?}")),
        }
    }

    /// Whether PyTorch's reader may find that a file is missing: without locks, and while one of two attempts
    /// that commit at the same time has not returned, or was killed.
    fn may_miss(&self) -> bool {
        let began = |attempt: usize| self.status[attempt] != Status::Idle;
        let not_returned =
            |attempt: usize| began(attempt) && self.status[attempt] != Status::Acknowledged;
        let apart = |one: usize, other: usize| self.before[other] >> one & 1 == 1;
        (0..ATTEMPTS).filter(|one| not_returned(*one)).any(|one| {
            (0..ATTEMPTS).any(|other| {
                other != one && began(other) && !apart(one, other) && !apart(other, one)
            })
        })
    }

    /// What is wrong with what the reader saw, who took its time.
    fn check_reader(&self) -> Result<(), String> {
        let (Some((settled, replaced, promised)), Some(saw)) = (self.reads, &self.saw) else {
            return Ok(());
        };
        let fits = match saw {
            View::Nothing => !promised || self.removed,
            View::Whole(attempt) => {
                self.status[*attempt as usize] != Status::Idle && replaced >> attempt & 1 == 0
            }
            // Something was committed or removed under its hands.
            View::Refused(_) => {
                let committed = Self::set(|attempt| self.status[attempt] != Status::Idle);
                self.removed || committed & !settled != 0
            }
            View::Mixed(_) => false,
        };
        fits.then_some(()).ok_or_else(|| format!("the reader saw {saw:?}: {self:?}"))
    }
}

impl Notes for Promises {
    type Event = Event;

    fn note(&mut self, event: &Event) {
        match event {
            Event::Committing(attempt) => {
                self.before[*attempt] = self.over();
                self.status[*attempt] = Status::Committing;
            }
            Event::Acknowledged(attempt) => self.status[*attempt] = Status::Acknowledged,
            Event::GaveUp(attempt) => self.end(*attempt),
            Event::Removes => self.removed = true,
            Event::Reads => {
                self.reads = Some((self.settled(), self.replaced(HERE), self.is_promised(HERE)));
            }
            Event::Saw(view) => self.saw = Some(view.clone()),
        }
    }

    fn gone(&mut self, process: usize) {
        (0..ATTEMPTS)
            .filter(|attempt| WRITERS[*attempt] == process)
            .for_each(|attempt| self.end(attempt));
    }
}

impl Promises {
    fn end(&mut self, attempt: usize) {
        if self.status[attempt] == Status::Committing {
            self.status[attempt] = Status::Over;
        }
    }
}

/// What a job does, and what it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Right,
    /// Its shards have the names of all others, and its commit binds no more than these.
    NamesOnly,
    /// It removes what is not committed, though it cannot know whether somebody writes it.
    SweepsWithoutLocks,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    attempt: usize,
    directory: &'static str,
    removes: Option<&'static str>,
    habit: Habit,
    /// The process of rank 1.
    other: usize,
}

fn write_shard(job: Job, directory: &dyn Directory, rank: u64) -> Result<(String, Bound)> {
    let attempt = job.attempt as u64;
    if job.habit != Habit::NamesOnly {
        return write(directory, attempt, rank);
    }
    let memory = MemoryDirectory::new();
    write(&memory, attempt, rank)?;
    let bytes = memory.get(&shard_name(attempt, rank)).unwrap();
    let name = format!("__{rank}_0.distcp");
    publish_entry(directory, Publication::of_bytes(&name, &bytes))?;
    Ok((name, Bound::whole(bytes.len() as u64, 0)))
}

fn coordinate(root: &Port, job: Job) -> Result<()> {
    let child = make(root, job.directory)?;
    if job.habit == Habit::SweepsWithoutLocks {
        let bound = shards::committed(&*child)?.map(|commit| commit.files).unwrap_or_default();
        for entry in child.list().unwrap_or_default() {
            if entry.name.starts_with("000") && !bound.contains_key(&entry.name) {
                let _ = child.remove(&entry.name);
            }
        }
    }
    let begun = shards::begin_with_id(child.clone(), id(job.attempt as u64))?;
    root.tell(&format!("begun {}", job.attempt), "");
    let own = write_shard(job, &*child, 0)?;
    let answer = root.hear(&format!("written {}", job.attempt), job.other);
    let answer = answer.ok_or_else(|| Error::Io {
        place: Box::default(),
        action: "hear from rank 1",
        source: std::io::ErrorKind::BrokenPipe.into(),
    })?;
    let mut shards = BTreeMap::from([own]);
    shards.extend(serde_json::from_str::<BTreeMap<String, Bound>>(&answer).unwrap());
    root.note(Event::Committing(job.attempt));
    commit(begun, job.attempt as u64, shards)?;
    root.note(Event::Acknowledged(job.attempt));
    if let Some(name) = job.removes {
        root.note(Event::Removes);
        remove_child_durably(root, name)?;
    }
    Ok(())
}

fn coordinator(job: Job) -> Code {
    Box::new(move |root| {
        if coordinate(root, job).is_err() {
            root.note(Event::GaveUp(job.attempt));
        }
    })
}

fn rank_1(job: Job, coordinator: usize) -> Code {
    Box::new(move |root| {
        if root.hear(&format!("begun {}", job.attempt), coordinator).is_none() {
            return;
        }
        let Ok(child) = root.child(job.directory) else { return };
        if let Ok(written) = write_shard(job, &*child, 1) {
            let answer = serde_json::to_string(&BTreeMap::from([written])).unwrap();
            root.tell(&format!("written {}", job.attempt), &answer);
        }
    })
}

/// One process that stands for all ranks.
fn alone(attempt: usize) -> Code {
    Box::new(move |root| {
        let saved = make(root, HERE).and_then(|child| {
            let child = child.clone();
            root.note(Event::Committing(attempt));
            save_in(&child, attempt as u64)
        });
        match saved {
            Ok(_) => root.note(Event::Acknowledged(attempt)),
            Err(_) => root.note(Event::GaveUp(attempt)),
        }
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Nobody,
    Scai,
    Stock,
}

fn reader(who: Reader) -> Code {
    Box::new(move |root| {
        if who == Reader::Nobody {
            return;
        }
        root.pause();
        root.note(Event::Reads);
        let saw = match root.child(HERE) {
            Err(_) => View::Nothing,
            Ok(child) if who == Reader::Scai => scai(&*child, Trust::Digests),
            Ok(child) => stock(&*child),
        };
        root.note(Event::Saw(saw));
    })
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    locks: bool,
    /// Whether there is a checkpoint already.
    saved: bool,
    /// Whether the second job saves another checkpoint and removes the first one's directory.
    removes: bool,
    reader: Reader,
    kills: u8,
    /// Whether processes stop at what others cannot see, too.
    every: bool,
    habit: Habit,
}

const PLAIN: Scenario = Scenario {
    locks: true,
    saved: true,
    removes: false,
    reader: Reader::Nobody,
    kills: 1,
    every: false,
    habit: Habit::Right,
};

/// What was found, and in how many states the stock reader finds a file missing.
fn explore(scenario: Scenario, limit: usize) -> (Found, usize) {
    let Scenario { locks, saved, removes, kills, every, habit, .. } = scenario;
    let first = Job { attempt: FIRST, directory: HERE, removes: None, habit, other: 1 };
    let second = match removes {
        true => Job { directory: LATER, removes: Some(HERE), attempt: SECOND, other: 3, ..first },
        false => Job { attempt: SECOND, other: 3, ..first },
    };
    let codes = vec![
        coordinator(first),
        rank_1(first, 0),
        coordinator(second),
        rank_1(second, 2),
        reader(scenario.reader),
        alone(NEXT),
    ];
    let mut world =
        World::new(PROCESSES, locks, Promises::new(removes.then_some(SECOND), scenario.reader));
    world.gone = vec![true; PROCESSES];
    if saved {
        let codes = (0..PROCESSES).map(|_| alone(BEFORE)).collect();
        let mut before = Explorer::new(codes, Vec::new(), 0, false);
        world = before.alone(world, LAST, |_| Ok(())).unwrap();
    }
    world.gone = (0..PROCESSES).map(|process| process == LAST).collect();

    let trust = if habit == Habit::NamesOnly { Trust::Names } else { Trust::Digests };
    let views = Views { trust, known: HashMap::new().into(), missing: Cell::new(0) };
    let mut explorer = Explorer::new(codes, vec![vec![0, 1], vec![2, 3]], kills, every);
    // The next attempt, after everything has stopped at this moment.
    let mut next =
        Explorer::new((0..PROCESSES).map(|_| alone(NEXT)).collect(), Vec::new(), 0, false);
    let mut tried = HashSet::new();
    let found = explorer.explore(world, limit, |world| {
        views.check(world)?;
        world.notes.check_reader()?;
        if habit == Habit::NamesOnly {
            return Ok(());
        }
        let mut world = world.clone();
        world.kill_all();
        let promises = (world.notes.allowed(HERE), world.notes.is_promised(HERE));
        if !tried.insert(digest(&(world.child(HERE), promises))) {
            return Ok(());
        }
        let failed = |why| format!("the next attempt: {why}");
        let world = next.alone(world, LAST, |world| views.check(world)).map_err(failed)?;
        if world.notes.status[NEXT] != Status::Acknowledged {
            return Err(failed("it failed".to_owned()));
        }
        match locks {
            true => assert_tidy(&world.child(HERE).unwrap()).map_err(failed),
            false => Ok(()),
        }
    });
    (found, views.missing.get())
}

/// What readers find at a moment, remembered.
struct Views {
    trust: Trust,
    known: std::cell::RefCell<HashMap<u128, (View, View)>>,
    missing: Cell<usize>,
}

impl Views {
    fn check(&self, world: &World<Promises>) -> Result<(), String> {
        for directory in [HERE, LATER] {
            let Some(look) = world.child(directory) else {
                world.notes.check(directory, &View::Nothing)?;
                continue;
            };
            let mut known = self.known.borrow_mut();
            let (scai, stock) = known
                .entry(digest(&look))
                .or_insert_with(|| (scai(&look, self.trust), stock(&look)));
            world.notes.check(directory, scai)?;
            if !world.locks && world.notes.may_miss() && matches!(stock, View::Refused(_)) {
                self.missing.set(self.missing.get() + 1);
                continue;
            }
            world
                .notes
                .check(directory, stock)
                .map_err(|why| format!("the stock reader: {why}"))?;
        }
        Ok(())
    }
}

/// Both kinds of file systems; nothing saved, something saved, and removed meanwhile; each reader.
fn scenarios() -> impl Iterator<Item = Scenario> {
    let starts = [(false, false), (true, false), (true, true)];
    let readers = [Reader::Nobody, Reader::Scai, Reader::Stock];
    [true, false].into_iter().flat_map(move |locks| {
        starts.into_iter().flat_map(move |(saved, removes)| {
            readers.map(|reader| Scenario { locks, saved, removes, reader, ..PLAIN })
        })
    })
}

fn explore_all(scenarios: impl Iterator<Item = Scenario>, limit: usize) {
    let (mut states, mut executions, mut missing) = (0, 0, 0);
    for scenario in scenarios {
        let (found, misses) = explore(scenario, limit);
        println!("{scenario:?}: {found}");
        assert_eq!(found.bad, 0, "{found}");
        assert!(scenario.locks || scenario.removes || misses > 0, "too little happens: {found}");
        (states, executions) = (states + found.states, executions + found.executions);
        missing += misses;
    }
    println!("{states} states, {executions} executions, 0 bad");
    println!("without locks, the stock reader finds a file missing in {missing} of these states");
}

#[test]
fn two_jobs_a_kill_a_removal_and_a_reader_never_mix_or_lose_a_checkpoint() {
    explore_all(scenarios(), if full() { usize::MAX } else { 10_000 });
}

/// Takes minutes.
#[test]
fn two_kills_and_every_operation_change_nothing() {
    if !full() {
        return;
    }
    let twice = scenarios().map(|scenario| Scenario { kills: 2, ..scenario });
    let every = scenarios()
        .filter(|scenario| scenario.reader == Reader::Nobody)
        .map(|scenario| Scenario { every: true, ..scenario });
    explore_all(twice.chain(every), usize::MAX);
}

#[test]
fn jobs_that_are_wrong_are_caught() {
    let names_only = Scenario { habit: Habit::NamesOnly, locks: false, ..PLAIN };
    let sweeps = Scenario { habit: Habit::SweepsWithoutLocks, ..names_only };
    for scenario in [names_only, Scenario { locks: true, ..names_only }, sweeps] {
        let (found, _) = explore(scenario, 50_000);
        let text = found.to_string();
        println!("{scenario:?}: {}", text.lines().take(2).collect::<Vec<_>>().join("\n"));
        assert!(found.bad > 0, "{scenario:?} was not noticed: {found}");
    }
}
