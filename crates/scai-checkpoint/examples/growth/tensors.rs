//! States of more and more tensors, of 64 floats each.

use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::manager::default_threads;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{CheckpointManager, Options, file};

use crate::timing::timed;
use crate::{Points, Settings, half_decades, states};

const FLOATS: usize = 64;

pub(crate) fn sweep(settings: &Settings) -> Points {
    let (largest, rounds) = if settings.quick { (1_000, 3) } else { (100_000, 7) };
    let directory = settings.directory.join("run");
    let threads = default_threads();
    let mut points = Points::default();
    for _ in 0..rounds {
        for tensors in half_decades(largest) {
            let storage = |i| Storage::from_vec(states::random(i, 4 * FLOATS));
            let state = states::model(tensors as usize, storage);
            let manager = CheckpointManager::create(&directory, Options::default()).unwrap();
            let (time, saved) = timed(|| manager.save(state.clone()).unwrap());
            points.add("save", tensors, time);

            let open = || file::open(&saved.path, Unprotected::Refuse).unwrap();
            // What went past the page cache is in it from here on.
            assert!(open().verify(threads).is_empty());
            let (time, damage) = timed(|| open().verify(threads));
            assert!(damage.is_empty());
            points.add("verify", tensors, time);
            let (time, _) = timed(|| open().tree().unwrap().resident(threads).unwrap());
            points.add("load", tensors, time);
            let (time, _) = timed(|| open().tree().unwrap());
            points.add("open", tensors, time);
            std::fs::remove_dir_all(&directory).unwrap();
        }
    }
    points
}
