//! Directories of more and more checkpoints, small ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scai_checkpoint::store::MemoryStore;
use scai_checkpoint::{Checkpoint, CheckpointManager, Options, Retention};

use crate::timing::timed;
use crate::{Points, Settings, half_decades, training};

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
    for _ in 0..rounds {
        for (&size, directory) in sizes.iter().zip(&directories) {
            measure(&mut points, directory, size);
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
    let name = manager.save(&state(iteration)).unwrap().name;
    std::fs::write(directory.join(&name), store.get(&name).unwrap()).unwrap();
}

/// Does everything once in a directory of `size` checkpoints, which it leaves as it was.
fn measure(points: &mut Points, directory: &Path, size: u64) {
    let manager = |retention| {
        let options = Options::default().retention(retention);
        CheckpointManager::open(directory, options).unwrap()
    };
    let keep_all = manager(Retention::keep_all());
    let (time, names) = timed(|| keep_all.names().unwrap());
    assert_eq!(names.len() as u64, size);
    points.add("names", size, time);
    let (time, _) = timed(|| keep_all.list().unwrap());
    points.add("list", size, time);
    let (time, _) = timed(|| keep_all.latest().unwrap());
    points.add("latest", size, time);
    let (time, _) = timed(|| keep_all.resume().unwrap());
    points.add("resume", size, time);

    let mut save = |operation, manager: &CheckpointManager| {
        let (time, saved) = timed(|| manager.save(&state(size + 1)).unwrap());
        points.add(operation, size, time);
        std::fs::remove_file(&saved.path).unwrap();
        assert!(saved.removed.len() <= 1);
        saved.removed.iter().for_each(|_| put(directory, 1));
    };
    save("save", &keep_all);
    // The first one in a process reads what stays before it deletes anything.
    let keep_last = manager(Retention::keep_last(size as usize));
    save("first save, keep_last", &keep_last);
    save("save, keep_last", &keep_last);
}
