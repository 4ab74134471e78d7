//! What another process does between two steps of a manager.

use std::io;
use std::sync::{Arc, Mutex};

use scai_checkpoint::manager::Prune;
use scai_checkpoint::retention::Reason;
use scai_checkpoint::store::{Directory, Draft, Entry, Lock, MemoryDirectory, ReadAt};
use scai_checkpoint::{CheckpointManager, Error, Options, Retention};

use crate::support::over;
use crate::training::{Save, Size, name, save_of, save_under, state};

const SIZE: Size = Size::Small;

/// A step of a manager after which somebody else acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Listed,
    Opened(u64),
}

type Act = Box<dyn FnOnce() + Send>;

/// A store in which somebody else acts once, right after a step.
struct Meddled {
    store: MemoryDirectory,
    act: Mutex<Option<(Step, Act)>>,
}

impl std::fmt::Debug for Meddled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

impl Meddled {
    fn new(store: &MemoryDirectory, step: Step, act: impl FnOnce() + Send + 'static) -> Self {
        Self { store: store.clone(), act: Mutex::new(Some((step, Box::new(act)))) }
    }

    fn after(&self, step: Step) {
        let act = self.act.lock().unwrap().take_if(|(when, _)| *when == step);
        if let Some((_, act)) = act {
            act();
        }
    }
}

impl Directory for Meddled {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        self.store.create(len)
    }

    fn open(&self, file: &str) -> io::Result<Arc<dyn ReadAt>> {
        let opened = self.store.open(file);
        if let Some(iteration) = crate::training::iteration(file) {
            self.after(Step::Opened(iteration));
        }
        opened
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let entries = self.store.list();
        self.after(Step::Listed);
        entries
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.store.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.store.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.store.sync()
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.store.link(from, to)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.store.lock()
    }

    fn sweep(&self) -> io::Result<Vec<String>> {
        self.store.sweep()
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}

fn save(iteration: u64, writer: u64) -> Save {
    Save { iteration, writer }
}

fn manager(store: &MemoryDirectory) -> CheckpointManager {
    CheckpointManager::with_store(over(store.clone()), Options::default())
}

/// A store that holds these iterations, of writer 1.
fn store_of(iterations: impl IntoIterator<Item = u64>) -> MemoryDirectory {
    let store = MemoryDirectory::new();
    let manager = manager(&store);
    for iteration in iterations {
        manager.save(state(save(iteration, 1), SIZE)).unwrap();
    }
    store
}

/// Flips a bit in the middle of a file.
fn damage(store: &MemoryDirectory, iteration: u64) {
    let mut bytes = store.get(&name(iteration)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.put(&name(iteration), bytes);
}

#[test]
fn a_resume_beside_a_run_that_prunes_finds_the_newest() {
    let store = store_of([1, 2]);
    let run = store.clone();
    let meddled = Meddled::new(&store, Step::Listed, move || {
        let manager = manager(&run);
        for iteration in 3..=5 {
            manager.save(state(save(iteration, 1), SIZE)).unwrap();
        }
        manager.prune(&Retention::keep_last(2).unwrap(), Prune::Remove).unwrap();
    });
    let resumed = CheckpointManager::with_store(over(meddled), Options::default()).resume();
    let resumed = resumed.unwrap().unwrap();
    assert_eq!(save_of(&resumed.checkpoint, SIZE), Ok(save(5, 1)));
    assert_eq!((resumed.iterations_lost, resumed.skipped.len()), (0, 0));
}

#[test]
fn a_damaged_checkpoint_that_was_replaced_meanwhile_is_not_set_aside() {
    let store = store_of([1, 2]);
    damage(&store, 2);
    let run = store.clone();
    let meddled = Meddled::new(&store, Step::Opened(2), move || {
        manager(&run).save(state(save(2, 7), SIZE)).unwrap();
    });
    let resumed = CheckpointManager::with_store(over(meddled), Options::default()).resume();
    let resumed = resumed.unwrap().unwrap();
    assert_eq!(save_of(&resumed.checkpoint, SIZE), Ok(save(2, 7)));
    assert_eq!((resumed.iterations_lost, resumed.skipped.len()), (0, 0));
    assert_eq!(save_under(&manager(&store), &name(2), SIZE), Ok(Some(save(2, 7))));
}

#[test]
fn a_checkpoint_pinned_while_a_prune_verifies_the_others_stays() {
    let store = store_of(1..=3);
    let person = store.clone();
    // The last file that a prune reads before it deletes.
    let meddled =
        Meddled::new(&store, Step::Listed, move || manager(&person).pin(name(1)).unwrap());
    let prune = CheckpointManager::with_store(over(meddled), Options::default());
    let verdicts = prune.prune(&Retention::keep_last(1).unwrap(), Prune::Remove).unwrap();
    let removed: Vec<bool> = verdicts.iter().map(|verdict| verdict.removed).collect();
    assert_eq!(removed, [false, true, false]);
    assert_eq!(verdicts[0].reasons, [Reason::Pinned]);
    assert_eq!(save_under(&manager(&store), &name(1), SIZE), Ok(Some(save(1, 1))));
}

#[test]
fn a_pin_of_a_checkpoint_that_goes_meanwhile_is_not_acknowledged() {
    let store = store_of(1..=3);
    let run = store.clone();
    let meddled = Meddled::new(&store, Step::Opened(1), move || {
        manager(&run).prune(&Retention::keep_last(1).unwrap(), Prune::Remove).unwrap();
    });
    let pin = CheckpointManager::with_store(over(meddled), Options::default()).pin(name(1));
    assert!(matches!(pin, Err(Error::NotFound { .. })), "{pin:?}");
    let left: Vec<String> = store.list().unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(!left.iter().any(|name| name.ends_with(".pinned")), "{left:?}");
}

#[test]
fn a_list_beside_a_run_that_prunes_leaves_out_what_is_gone() {
    let store = store_of(1..=3);
    let run = store.clone();
    let meddled = Meddled::new(&store, Step::Listed, move || {
        manager(&run).prune(&Retention::keep_last(2).unwrap(), Prune::Remove).unwrap();
    });
    let listed = CheckpointManager::with_store(over(meddled), Options::default()).list().unwrap();
    let listed: Vec<_> = listed.iter().map(|listed| (listed.iteration, &listed.problem)).collect();
    assert_eq!(listed, [(2, &None), (3, &None)]);
}

#[test]
fn what_was_verified_before_the_right_to_write_was_taken_is_verified_again() {
    let store = store_of(1..=3);
    let other = manager(&store);
    // A dry run verifies what would stay, and takes no right.
    let verdicts = other.prune(&Retention::keep_last(1).unwrap(), Prune::DryRun).unwrap();
    assert_eq!(verdicts.iter().filter(|verdict| verdict.stays()).count(), 1);
    damage(&store, 3);
    other.prune(&Retention::keep_last(1).unwrap(), Prune::Remove).unwrap();
    assert_eq!(save_under(&other, &name(2), SIZE), Ok(Some(save(2, 1))));
}

#[test]
fn managers_of_one_directory_share_what_they_know_to_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let open = || CheckpointManager::open(directory.path(), Options::default()).unwrap();
    let (one, two) = (open(), open());
    for iteration in 1..=3 {
        one.save(state(save(iteration, 1), SIZE)).unwrap();
    }
    // The first manager verifies 3, the second replaces it, and the disk forgets what it wrote.
    one.prune(&Retention::keep_last(2).unwrap(), Prune::Remove).unwrap();
    two.save(state(save(3, 2), SIZE)).unwrap();
    let path = directory.path().join(name(3));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    one.prune(&Retention::keep_last(1).unwrap(), Prune::Remove).unwrap();
    assert_eq!(save_under(&one, &name(2), SIZE), Ok(Some(save(2, 1))));
}
