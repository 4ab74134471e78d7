//! The directory that a fuzzer works on: a simulated disk, a store that fails, a manager, and the
//! model beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use scai_checkpoint::codec::torch::Unprotected;
use scai_checkpoint::store::{Directory, Store, is_draft};
use scai_checkpoint::testing::{Effect, Failure, Fault, FaultDirectory, Op, SimulatedDisk, Times};
use scai_checkpoint::{Checkpoint, CheckpointManager, Options, Retention};
use xxhash_rust::xxh3::xxh3_128;

use crate::fuzz_checks::Input;
use crate::fuzz_model::{Contents, Effects, Held, Model};
use crate::support;
use crate::support::over;
use crate::training::{self, Save, Size, name, save_of};

pub(crate) const SIZE: Size = Size::Tiny;

/// The iterations that are saved; few, so that saves meet.
pub(crate) const ITERATIONS: [u64; 8] = [0, 1, 2, 3, 5, 10, 100, 1 << 40];

pub(crate) type Checked = Result<(), String>;

/// One fault for an operation, over one that stands for what the file system lacks.
type Faulty = FaultDirectory<FaultDirectory<SimulatedDisk>>;

pub(crate) struct Bench {
    /// What was done, for the reader of a failure.
    pub(crate) story: Vec<String>,
    pub(crate) model: Model,
    pub(crate) retention: Retention,
    links: bool,
    store: Faulty,
    manager: Option<CheckpointManager>,
    fault: Option<Fault>,
    fired: usize,
    /// The model before the last operation, and the steps of the disk then.
    before: (Model, usize),
    saves: u64,
    /// What files hold, by the digest of their bytes.
    known: HashMap<u128, Held>,
}

impl Bench {
    pub(crate) fn new(links: bool, retention: Retention) -> Self {
        let store = faulty(SimulatedDisk::new(), links);
        let mut bench = Self {
            story: vec![format!("{retention:?}, links: {links}")],
            model: Model::default(),
            manager: Some(manager_of(over(store.clone()), retention.clone())),
            retention,
            links,
            store,
            fault: None,
            fired: 0,
            before: (Model::default(), 0),
            saves: 0,
            known: HashMap::new(),
        };
        bench.keep_as_before();
        bench
    }

    fn disk(&self) -> &SimulatedDisk {
        self.store.inner().inner()
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        over(self.store.clone())
    }

    pub(crate) fn manager(&self) -> &CheckpointManager {
        self.manager.as_ref().expect("there is always a manager")
    }

    /// Of two saves of an iteration, the later one has the larger number.
    pub(crate) fn next_save(&mut self, iteration: u64) -> Save {
        self.saves += 1;
        Save { iteration, writer: self.saves }
    }

    fn keep_as_before(&mut self) {
        self.before = (self.model.clone(), self.disk().steps());
    }

    /// Begins an operation: what the power failure that comes next may come in the midst of.
    pub(crate) fn begin(&mut self, what: String) {
        self.story.push(what);
        self.fired = self.store.fired();
        self.keep_as_before();
    }

    /// What an operation may change that changes nothing but what the fault that fired breaks.
    pub(crate) fn effects(&self) -> Effects {
        let disturbed = self.store.fired() > self.fired;
        let forgets = self.fault.is_some_and(|fault| fault.effect == Effect::Forget);
        Effects {
            disturbed,
            forgetful: disturbed && forgets,
            obvious: self.obvious(),
            ..Effects::default()
        }
    }

    /// The damaged files that a list shows as such, as they were before the operation.
    fn obvious(&self) -> BTreeSet<u64> {
        if !self.model.now.has_damage() {
            return BTreeSet::new();
        }
        let reader = manager_of(over(self.disk().clone()), Retention::keep_all());
        let listed = reader.list().unwrap_or_default();
        let obvious = listed.into_iter().filter(|listed| listed.problem.is_some());
        obvious.map(|listed| listed.iteration).collect()
    }

    /// Ends an operation and holds what it left against the model; whether a fault fired.
    pub(crate) fn end(&mut self, effects: Effects) -> Result<bool, String> {
        let left = self.look(&self.disk().clone())?;
        self.model.advance(&effects, left)?;
        Ok(effects.disturbed)
    }

    /// Ends an operation that changes nothing.
    pub(crate) fn end_reading(&mut self) -> Result<bool, String> {
        self.end(self.effects())
    }

    /// What a store holds, read past the engine's manager and past the faults.
    fn look(&mut self, store: &dyn Directory) -> Result<Contents, String> {
        let mut found = Contents::default();
        for entry in store.list().map_err(|error| error.to_string())? {
            let file = entry.name.as_str();
            let split = file.split_once(".damaged").or_else(|| file.split_once(".earlier"));
            let (file, aside) = match split {
                Some((file, number)) if !number.ends_with(".txt") => (file, true),
                _ => (file, false),
            };
            if is_draft(file) {
                found.drafts += 1;
            } else if let Some(iteration) =
                file.strip_suffix(".pinned").and_then(training::iteration)
            {
                found.pins.insert(iteration);
            } else if file == "latest.pt" && !aside {
                found.latest = self.held(None, content(store, &entry.name)?)?;
            } else if let Some(iteration) = training::iteration(file) {
                let held = self.held(Some(iteration), content(store, &entry.name)?)?;
                if aside {
                    found.aside.insert((iteration, held));
                } else {
                    found.files.insert(iteration, held);
                }
            }
        }
        Ok(found)
    }

    /// What the bytes of a file are.
    ///
    /// # Errors
    /// They load, and are no state that was saved: the one thing that must never be.
    fn held(&mut self, iteration: Option<u64>, bytes: Vec<u8>) -> Result<Held, String> {
        let digest = xxh3_128(&bytes);
        if let Some(held) = self.known.get(&digest) {
            return Ok(*held);
        }
        let loaded = support::open(bytes, Unprotected::Refuse)
            .and_then(|file| Checkpoint::from_tree(file.tree()?.resident(1)?));
        let held = match loaded {
            Err(_) => Held::Damage(digest),
            Ok(checkpoint) => {
                let save = save_of(&checkpoint, SIZE)?;
                if iteration.is_some_and(|iteration| iteration != save.iteration) {
                    return Err(format!("{save:?} is what iteration {iteration:?} holds"));
                }
                Held::Save(save.writer)
            }
        };
        self.known.insert(digest, held);
        Ok(held)
    }

    /// Arms a fault for the operations to come.
    pub(crate) fn arm(&mut self, fault: Fault) {
        self.story.push(format!("{:?} after {}, {:?}", fault.effect, fault.after, fault.times));
        self.fault = Some(fault);
        self.store.arm(fault);
    }

    pub(crate) fn disarm(&mut self) {
        self.fault = None;
        self.store.disarm();
    }

    /// The process ends and the next one begins.
    pub(crate) fn reopen(&mut self, retention: Retention) {
        self.story.push(format!("reopen with {retention:?}"));
        self.retention = retention;
        self.reopen_as_it_was();
        self.model.known.clear();
        self.model.saved.clear();
    }

    pub(crate) fn reopen_as_it_was(&mut self) {
        self.manager = None;
        self.manager = Some(manager_of(self.store(), self.retention.clone()));
    }

    /// The disk damages a file.
    pub(crate) fn damage(&mut self, input: &mut Input<'_>) -> Checked {
        let [which, how, place] =
            [input.byte(), input.byte(), input.byte()].map(|b| b.unwrap_or(0));
        let files: Vec<u64> = self.model.now.files.keys().copied().collect();
        let Some(iteration) = files.get(usize::from(which) % files.len().max(1)).copied() else {
            return Ok(());
        };
        let disk = self.disk().clone();
        let sound = content(&disk, &name(iteration))?;
        let mut bytes = sound.clone();
        let at =
            (usize::from(place) << 8 | usize::from(input.byte().unwrap_or(0))) % (bytes.len() + 1);
        match how % 4 {
            0 => bytes.truncate(at),
            1 => bytes.push(how),
            2 => bytes.iter_mut().skip(at).take(64).for_each(|byte| *byte = 0),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= how | 1),
        }
        self.story.push(format!("damage {iteration}: {} at {at} of {}", how % 4, sound.len()));
        let file = disk.overwrite(&name(iteration), bytes.len() as u64);
        let file = file.map_err(|error| error.to_string())?;
        let written = file.write_at(0, &bytes).and_then(|()| file.sync()).and_then(|_| disk.sync());
        written.map_err(|error| error.to_string())?;
        let left = self.look(&disk)?;
        let (was, is) = (self.model.now.held(iteration), left.held(iteration));
        if bytes != sound && matches!((was, is), (Held::Save(_), Held::Save(_))) {
            return Err("the damage is not noticed".to_owned());
        }
        self.model.damage(left);
        self.keep_as_before();
        Ok(())
    }

    /// The power fails after the last operation or in the midst of it, and the next process finds
    /// one of the states that may be left.
    pub(crate) fn crash(
        &mut self,
        input: &mut Input<'_>,
        policy: fn(&mut Input<'_>) -> Retention,
    ) -> Checked {
        let [place, draw] = [input.byte(), input.byte()].map(|byte| byte.unwrap_or(0));
        self.disarm();
        let (before, first) = &self.before;
        let last = self.disk().steps();
        let step = last - usize::from(place) % (last - first + 1);
        let before = (step < last).then(|| before.clone());
        self.story.push(format!("crash at step {step} of {last}, {draw}"));
        let left = self.disk().crash_once(step, draw.into());
        let found = self.look(&left)?;
        self.model.check_crash(before.as_ref(), &found)?;
        self.manager = None;
        self.store = faulty(disk_of(&left)?, self.links);
        self.model = Model::durable(self.look(&self.disk().clone())?);
        self.reopen(policy(input));
        self.keep_as_before();
        Ok(())
    }
}

pub(crate) fn manager_of(store: Arc<dyn Store>, retention: Retention) -> CheckpointManager {
    let options = Options::default().retention(retention).threads(1);
    CheckpointManager::with_store(store, options)
}

fn faulty(disk: SimulatedDisk, links: bool) -> Faulty {
    let store = FaultDirectory::new(disk);
    if !links {
        let concerns = |op: &Op| matches!(op, Op::Link { .. });
        let effect = Effect::Fail(Failure::Kind(io::ErrorKind::Unsupported));
        store.arm(Fault { concerns, after: 0, times: Times::FromThenOn, effect });
    }
    FaultDirectory::new(store)
}

fn content(store: &dyn Directory, name: &str) -> Result<Vec<u8>, String> {
    let file = store.open(name).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// A disk on which these files are durable. Drafts among them have no living writer.
fn disk_of(files: &dyn Directory) -> Result<SimulatedDisk, String> {
    let disk = SimulatedDisk::new();
    let mut names = BTreeMap::new();
    for entry in files.list().map_err(|error| error.to_string())? {
        names.insert(entry.name.clone(), content(files, &entry.name)?);
    }
    let put = |name: &str, bytes: &[u8]| {
        let draft = disk.create(bytes.len() as u64)?;
        draft.write_at(0, bytes)?;
        let synced = draft.sync()?;
        if is_draft(name) { Ok(()) } else { disk.rename(synced.name(), name) }
    };
    let all = names.iter().try_for_each(|(name, bytes)| put(name, bytes));
    all.and_then(|()| disk.sync()).map_err(|error: io::Error| error.to_string())?;
    Ok(disk)
}
