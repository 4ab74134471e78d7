//! States of 64 tensors, larger and larger.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use scai_checkpoint::codec::{CheckpointFile, Unprotected};
use scai_checkpoint::manager::default_threads;
use scai_checkpoint::store::{Directory, LocalDirectory};
use scai_checkpoint::tensor::{Destination, Storage, read_into};
use scai_checkpoint::{Checkpoint, CheckpointManager, Options, Value, file};

use crate::states;
use crate::timing::{settle, timed};
use crate::{Points, Settings};

const TENSORS: usize = 64;
/// What a load fills at a time at most: a larger state is loaded in parts, each over the one before.
const MEMORY: u64 = 1 << 30;

/// A part of memory that all tensors share, so that a state takes little of it, however large.
struct Window {
    memory: Arc<Vec<u64>>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.memory)[self.range.clone()]
    }
}

pub(crate) fn sweep(settings: &Settings) -> Points {
    let largest = settings.max_bytes;
    let sizes = (20..33).step_by(2).map(|power| 1 << power).chain([8 << 30]);
    let sizes: Vec<u64> =
        sizes.filter(|&bytes| bytes <= largest && fits(&settings.directory, bytes)).collect();
    let Some(&largest) = sizes.last() else { return Points::default() };
    // Each tensor begins elsewhere: no two are equal.
    let memory = Arc::new(states::random(0, largest as usize / TENSORS + 64 * TENSORS));
    let window = |start: usize, len: usize| {
        let memory = Arc::clone(&memory);
        Storage::from_owner(Window { memory, range: start..start + len })
    };
    let mut loaded = vec![1; largest.min(MEMORY) as usize];
    let mut points = Points::default();
    for round in 0..rounds(settings, 0) {
        for &bytes in sizes.iter().filter(|&&bytes| round < rounds(settings, bytes)) {
            let len = bytes as usize / TENSORS;
            let state = states::model(TENSORS, |i| window(64 * i, len));
            measure(&mut points, &settings.directory.join("run"), &state, bytes, &mut loaded);
        }
    }
    points
}

fn rounds(settings: &Settings, bytes: u64) -> usize {
    if settings.quick || bytes > 1 << 30 { 3 } else { 7 }
}

/// Whether there is room for a file on the disk, and in memory, where it is read from.
fn fits(directory: &Path, bytes: u64) -> bool {
    let disk = LocalDirectory::open(directory).unwrap().free_space().unwrap_or(u64::MAX);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let fits = disk > bytes + (1 << 30)
        && memory.is_none_or(|kib| kib << 10 > bytes + bytes.min(MEMORY) + (1 << 30));
    if !fits {
        eprintln!("left out: {} MiB have no room on the disk or in memory", bytes >> 20);
    }
    fits
}

fn measure(
    points: &mut Points,
    directory: &Path,
    state: &Checkpoint,
    bytes: u64,
    memory: &mut [u8],
) {
    let manager = CheckpointManager::create(directory, Options::default()).unwrap();
    let (time, saved) = timed(|| manager.save(state.clone()).unwrap());
    points.add("save", bytes, time);

    let threads = default_threads();
    let open = || file::open(&saved.path, Unprotected::Refuse).unwrap();
    // What went past the page cache is in it from here on.
    assert!(open().verify(threads).is_empty());
    let (time, damage) = timed(|| open().verify(threads));
    assert!(damage.is_empty());
    points.add("verify", bytes, time);
    let (time, ()) = timed(|| load(&open(), threads, memory));
    points.add("load into memory", bytes, time);
    let (time, _) = timed(|| {
        let tree = open().tree().unwrap();
        let tensor = tree.lookup("model_state_dict.layer.40.weight").and_then(Value::as_tensor);
        tensor.unwrap().to_bytes().unwrap()
    });
    points.add("open, read one tensor of 64", bytes, time);

    std::fs::remove_dir_all(directory).unwrap();
    settle();
}

/// Reads and checks all tensors, as many at a time as there is memory for.
fn load(file: &CheckpointFile, threads: usize, memory: &mut [u8]) {
    let tree = file.tree().unwrap();
    let storages = tree.storages();
    let len = storages[0].1.len() as usize;
    for part in storages.chunks((memory.len() / len).max(1)) {
        let destinations = part.iter().zip(memory.chunks_mut(len));
        let destinations = destinations.map(|((name, storage), bytes)| Destination {
            name,
            storage,
            bytes,
            is_new: false,
        });
        read_into(destinations.collect(), threads).unwrap();
    }
}
