//! Directories of more and more checkpoints, small ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scai_checkpoint::store::MemoryStore;
use scai_checkpoint::{Checkpoint, CheckpointManager, Options, Retention};

use crate::timing::timed;
use crate::{Points, Settings, half_decades, training};

/// The first save in a process takes a while in larger directories, and is measured there once.
const FIRST_EACH_ROUND: u64 = 1_000;

/// The managers of a directory, of which the first to write has the right to write.
struct Managers {
    keep_all: CheckpointManager,
    keep_last: CheckpointManager,
}

impl Managers {
    fn open(directory: &Path, size: u64) -> Self {
        let manager = |retention| {
            let options = Options::default().retention(retention);
            CheckpointManager::open(directory, options).unwrap()
        };
        Self {
            keep_all: manager(Retention::keep_all()),
            keep_last: manager(Retention::keep_last(size).unwrap()),
        }
    }
}

pub(crate) fn sweep(settings: &Settings) -> Points {
    let (largest, rounds) = if settings.quick { (100, 3) } else { (10_000, 5) };
    let sizes = half_decades(largest);
    let path = |size: &u64| settings.directory.join(size.to_string());
    let directories: Vec<PathBuf> = sizes.iter().map(path).collect();
    for (&size, directory) in sizes.iter().zip(&directories) {
        std::fs::create_dir(directory).unwrap();
        (1..=size).for_each(|iteration| put(directory, iteration));
    }
    let mut points = Points::default();
    let mut opened: Vec<Option<Managers>> = sizes.iter().map(|_| None).collect();
    for _ in 0..rounds {
        for ((&size, directory), opened) in sizes.iter().zip(&directories).zip(&mut opened) {
            if size <= FIRST_EACH_ROUND {
                *opened = None;
            }
            let managers = match opened {
                Some(managers) => managers,
                none => {
                    let managers = none.insert(Managers::open(directory, size));
                    // It reads all that stays from the device before it deletes anything.
                    let manager = &managers.keep_last;
                    save(&mut points, "first save, keep_last", directory, size, manager);
                    managers
                }
            };
            measure(&mut points, directory, size, managers);
        }
    }
    points
}

fn state(iteration: u64) -> Checkpoint {
    Checkpoint { iteration, ..training::state(1, 64) }
}

/// Puts a checkpoint into a directory without a sync.
fn put(directory: &Path, iteration: u64) {
    let store = MemoryStore::new();
    let manager = CheckpointManager::with_store(Arc::new(store.clone()), Options::default());
    let name = manager.save(state(iteration)).unwrap().name;
    std::fs::write(directory.join(&name), store.directory().get(&name).unwrap()).unwrap();
}

fn measure(points: &mut Points, directory: &Path, size: u64, managers: &Managers) {
    let Managers { keep_all, keep_last } = managers;
    let (time, paths) = timed(|| keep_all.paths().unwrap());
    assert_eq!(paths.len() as u64, size);
    points.add("names", size, time);
    let (time, _) = timed(|| keep_all.list().unwrap());
    points.add("list", size, time);
    let (time, _) = timed(|| keep_all.latest().unwrap());
    points.add("latest", size, time);
    let (time, _) = timed(|| keep_all.resume().unwrap());
    points.add("resume", size, time);
    save(points, "save", directory, size, keep_all);
    save(points, "save, keep_last", directory, size, keep_last);
}

/// Saves one more than the `size` checkpoints, and leaves the directory as it was.
fn save(
    points: &mut Points,
    operation: &'static str,
    directory: &Path,
    size: u64,
    manager: &CheckpointManager,
) {
    let (time, saved) = timed(|| manager.save(state(size + 1)).unwrap());
    points.add(operation, size, time);
    std::fs::remove_file(&saved.path).unwrap();
    assert!(saved.removed.len() <= 1);
    saved.removed.iter().for_each(|_| put(directory, 1));
}
