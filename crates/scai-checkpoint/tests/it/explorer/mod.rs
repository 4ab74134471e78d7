//! Every order in which processes can do what they do to a directory, and every moment at which they can be
//! killed.
//!
//! A process is real code that works on a [`Port`], a directory that stops it before every operation. Which
//! operation comes next follows from the results of those before it, so a process is run once for each
//! history of results, from its start, with the results recorded; the explorer then keeps only the number
//! of the history. A state is the directories, these numbers, and notes of what was promised. States are
//! told apart by a digest of 128 bits, and each is visited once.
//!
//! Three things keep the number small and lose nothing. A file never changes once it has a name, so reading one
//! that is open is not an operation. A temporary file has no name, so nobody else sees it being
//! written. What is in memory is durable, so syncing changes nothing (`shards_crash` is about that); stopping
//! at the last two as well is an option.

mod port;
mod world;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

pub(crate) use port::Port;
pub(crate) use world::{World, digest};

use port::{Run, Stopped};
use world::{Content, Op, Reply};

/// A process that is more than this many operations from its end hangs.
const LONGEST: usize = 400;
/// So many states are remembered with what led to them.
const TRACED: usize = 3_000_000;
/// The state of a process that was killed.
const KILLED: u32 = u32::MAX;

/// What processes note and what must hold.
pub(crate) trait Notes: Clone + Hash {
    type Event: Clone + Send + 'static;

    /// A process has noted something.
    fn note(&mut self, event: &Self::Event);

    /// A process was killed or has ended.
    fn gone(&mut self, process: usize);
}

/// The code of a process.
pub(crate) type Code = Box<dyn Fn(&Port)>;

/// A history of a process.
struct Node<E> {
    before: Option<usize>,
    /// The digest of the operation that led here, and its result.
    led: Option<(u128, Reply)>,
    notes: Vec<E>,
    /// What comes next; `None` if it has ended.
    next: Option<(Op, Option<Content>)>,
    length: usize,
    after: HashMap<u128, usize>,
}

/// A process with the histories that were met.
struct Process<E> {
    code: Code,
    number: usize,
    every: bool,
    nodes: Vec<Node<E>>,
}

impl<E: Clone + Send + 'static> Process<E> {
    fn new(code: Code, number: usize, every: bool) -> Self {
        let mut new = Self { code, number, every, nodes: Vec::new() };
        new.run(None, None);
        new
    }

    /// Runs the code to the operation after a history.
    fn run(&mut self, before: Option<usize>, led: Option<(u128, Reply)>) -> usize {
        let mut recorded: Vec<(u128, Reply)> = led.iter().cloned().collect();
        let mut at = before;
        while let Some(node) = at.map(|at| &self.nodes[at]) {
            recorded.extend(node.led.clone());
            at = node.before;
        }
        recorded.reverse();
        let length = recorded.len();
        assert!(length < LONGEST, "process {} does not end", self.number);
        let run = Arc::new(Mutex::new(Run {
            process: self.number,
            recorded,
            at: 0,
            next: None,
            temporary: HashMap::new(),
            synced: None,
            notes: Vec::new(),
            every: self.every,
        }));
        let port = Port { folder: 0, run: Arc::clone(&run) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.code)(&port)))
            && !payload.is::<Stopped>()
        {
            resume_unwind(payload);
        }
        let mut run = run.lock().unwrap();
        assert_eq!(run.at, length, "process {} ended early", self.number);
        let notes = run.notes.drain(..).map(|event| *event.downcast::<E>().unwrap()).collect();
        let next = run.next.take();
        drop(run);
        self.nodes.push(Node { before, led, notes, next, length, after: HashMap::new() });
        self.nodes.len() - 1
    }

    /// The history after another one and a result.
    fn after(&mut self, node: usize, op: &Op, reply: Reply) -> usize {
        let key = digest(&reply);
        if let Some(known) = self.nodes[node].after.get(&key) {
            return *known;
        }
        let new = self.run(Some(node), Some((digest(op), reply)));
        self.nodes[node].after.insert(key, new);
        new
    }
}

/// Which processes die together.
pub(crate) type Job = Vec<usize>;

/// What is to be explored.
pub(crate) struct Explorer<N: Notes> {
    processes: Vec<Process<N::Event>>,
    jobs: Vec<Job>,
    /// How often something is killed.
    kills: u8,
}

#[derive(Clone)]
struct State<N> {
    world: World<N>,
    /// The history of each process.
    at: Vec<u32>,
    kills: u8,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) transitions: usize,
    /// How often the code of a process was run.
    pub(crate) executions: usize,
    /// States in which nothing goes on.
    pub(crate) ends: usize,
    pub(crate) longest: usize,
    pub(crate) bad: usize,
    pub(crate) examples: Vec<String>,
    /// Whether there were more states than were visited.
    pub(crate) cut: bool,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { states, transitions, executions, ends, longest, bad, examples, cut } = self;
        write!(f, "{states} states{}, ", if *cut { " (there are more)" } else { "" })?;
        write!(f, "{transitions} transitions, {ends} ends, {executions} executions of ")?;
        write!(f, "up to {longest} operations, {bad} bad")?;
        examples.iter().try_for_each(|example| write!(f, "\n{example}"))
    }
}

impl<N: Notes> Explorer<N> {
    pub(crate) fn new(codes: Vec<Code>, jobs: Vec<Job>, kills: u8, every: bool) -> Self {
        let new = |(number, code)| Process::new(code, number, every);
        Self { processes: codes.into_iter().enumerate().map(new).collect(), jobs, kills }
    }

    /// Visits up to `limit` states. `check` says what is wrong with one.
    pub(crate) fn explore(
        &mut self,
        world: World<N>,
        limit: usize,
        mut check: impl FnMut(&World<N>) -> Result<(), String>,
    ) -> Found {
        let mut first = State { world, at: vec![0; self.processes.len()], kills: 0 };
        for process in 0..self.processes.len() {
            if !first.world.gone[process] {
                self.arrive(&mut first, process);
            }
        }
        let mut found = Found::default();
        let mut seen = HashSet::from([digest(&(&first.world, &first.at, first.kills))]);
        let mut came: HashMap<u128, (u128, Option<(usize, Op)>)> = HashMap::new();
        let mut open = vec![first];
        while let Some(state) = open.pop() {
            let here = digest(&(&state.world, &state.at, state.kills));
            let after = self.after(&state);
            found.states += 1;
            found.transitions += after.len();
            let is_end = state.world.gone.iter().all(|gone| *gone);
            found.ends += usize::from(is_end);
            let stuck = after.iter().all(|(what, _)| what.is_none()) && !is_end;
            let checked = match stuck {
                true => Err("somebody waits for ever".to_owned()),
                false => check(&state.world),
            };
            if let Err(why) = checked {
                found.bad += 1;
                if found.examples.is_empty() {
                    let mut lines = vec![format!("BAD: {why}")];
                    let mut at = here;
                    while let Some((before, what)) = came.get(&at) {
                        lines.push(match what {
                            Some((process, op)) => format!("process {process}: {op:?}"),
                            None => "a kill".to_owned(),
                        });
                        at = *before;
                    }
                    found.examples.push(lines.join("\n  after "));
                }
            }
            for (what, next) in after {
                let there = digest(&(&next.world, &next.at, next.kills));
                if seen.len() >= limit {
                    found.cut |= !seen.contains(&there);
                } else if seen.insert(there) {
                    // How a state was reached is only needed for an example.
                    if came.len() < TRACED {
                        came.insert(there, (here, what));
                    }
                    open.push(next);
                }
            }
        }
        let nodes = || self.processes.iter().flat_map(|process| &process.nodes);
        found.executions = nodes().count();
        found.longest = nodes().map(|node| node.length).max().unwrap_or(0);
        found
    }

    /// The states that follow, with the operation that leads there; `None` for a kill.
    fn after(&mut self, state: &State<N>) -> Vec<(Option<(usize, Op)>, State<N>)> {
        let mut after = Vec::new();
        for process in 0..self.processes.len() {
            if state.world.gone[process] {
                continue;
            }
            let node = state.at[process] as usize;
            let Some((op, _)) = &self.processes[process].nodes[node].next else { continue };
            if state.world.is_enabled(op) {
                let what = Some((process, op.clone()));
                after.push((what, self.step(state, process)));
            }
        }
        if state.kills < self.kills {
            let alone = (0..self.processes.len()).map(|process| vec![process]);
            for killed in alone.chain(self.jobs.clone()) {
                let alive = |process: &&usize| !state.world.gone[**process];
                if killed.iter().filter(alive).count() == 0 {
                    continue;
                }
                let mut next = state.clone();
                next.kills += 1;
                for process in killed.into_iter().filter(|process| !state.world.gone[*process]) {
                    next.at[process] = KILLED;
                    next.world.leave(process);
                    next.world.notes.gone(process);
                }
                after.push((None, next));
            }
        }
        after
    }

    fn step(&mut self, state: &State<N>, process: usize) -> State<N> {
        let mut next = state.clone();
        let node = state.at[process] as usize;
        let (op, content) = self.processes[process].nodes[node].next.clone().unwrap();
        let reply = next.world.apply(process, &op, content.as_ref());
        next.at[process] = self.processes[process].after(node, &op, reply) as u32;
        self.arrive(&mut next, process);
        next
    }

    /// What a process does by itself after an operation.
    fn arrive(&self, state: &mut State<N>, process: usize) {
        let node = &self.processes[process].nodes[state.at[process] as usize];
        node.notes.iter().for_each(|event| state.world.notes.note(event));
        if node.next.is_none() {
            state.world.leave(process);
            state.world.notes.gone(process);
        }
    }

    /// Lets one process run to its end alone, and checks each state on the way.
    pub(crate) fn alone(
        &mut self,
        world: World<N>,
        process: usize,
        mut check: impl FnMut(&World<N>) -> Result<(), String>,
    ) -> Result<World<N>, String> {
        let at = vec![0; self.processes.len()];
        let mut state = State { world, at, kills: 0 };
        state.world.gone[process] = false;
        self.arrive(&mut state, process);
        while !state.world.gone[process] {
            state = self.step(&state, process);
            check(&state.world)?;
        }
        Ok(state.world)
    }
}
