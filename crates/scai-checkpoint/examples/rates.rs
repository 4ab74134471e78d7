//! What the engine makes of the machine: saves beside raw writes, loads beside copies of memory.
//!
//! ```sh
//! cargo run --release -p scai-checkpoint --example rates [DIRECTORY]
//! ```
//!
//! A state of 1 GiB in 64 tensors is saved and read in `DIRECTORY` (`target` where none is named),
//! which should be on the disk in question; 4 GiB must be free there and in memory. Everything is
//! done in turns, [`ROUNDS`] times, so that whatever else the machine does hits all alike, and the
//! medians are compared; the best of each tell more on a machine that is busy. The raw rate is that
//! of the fastest of three ways to write the same bytes past the page cache and sync them. All files
//! are removed.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement beside the engine: plain files, plain output, no recovery"
)]

#[path = "rates/raw.rs"]
mod raw;
#[path = "support/states.rs"]
mod states;
#[path = "support/timing.rs"]
mod timing;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scai_checkpoint::codec::{CheckpointFile, Unprotected};
use scai_checkpoint::manager::default_threads;
use scai_checkpoint::store::Io;
use scai_checkpoint::tensor::{Destination, Storage, read_into};
use scai_checkpoint::{Checkpoint, CheckpointManager, Options, Value, file};
use timing::{median_and_best, settle, timed};

/// How often each is done.
const ROUNDS: usize = 9;
const TENSORS: usize = 64;
const TENSOR: usize = 16 << 20;
const TOTAL: usize = TENSORS * TENSOR;
/// A state of many small tensors: so many, of so many floats.
const SMALL: (usize, usize) = (20_000, 64);

/// What was done, in order: its name, bytes, and how long it took each time.
#[derive(Default)]
struct Table(Vec<(&'static str, usize, Vec<Duration>)>);

impl Table {
    fn add(&mut self, name: &'static str, bytes: usize, time: Duration) {
        match self.0.iter_mut().find(|line| line.0 == name) {
            Some(line) => line.2.push(time),
            None => self.0.push((name, bytes, vec![time])),
        }
    }

    /// Bytes a second: in the median of the times, and in the best of them.
    fn rates(&self, name: &str) -> [f64; 2] {
        let (_, bytes, times) = self.0.iter().find(|line| line.0 == name).unwrap();
        median_and_best(times).map(|time| *bytes as f64 / time.as_secs_f64())
    }

    fn print(&self) {
        println!("{:<24} {:>9} {:>9} {:>11}", "", "ms", "GB/s", "best GB/s");
        for (name, bytes, _) in &self.0 {
            let [median, best] = self.rates(name);
            let time = 1e3 * *bytes as f64 / median;
            println!("{name:<24} {time:>9.1} {:>9.2} {:>11.2}", median / 1e9, best / 1e9);
        }
        println!("\n{:<24} {:>9} {:>9}", "", "medians", "best");
        let of = |name: &str, other: &str, [median, best]: [f64; 2]| {
            let rates = self.rates(name);
            println!("{name:<24} {:>9.2} {:>9.2} of {other}", rates[0] / median, rates[1] / best);
        };
        let raw =
            ["raw, 1 writer", "raw, 2 writers", "raw, 4 writers"].map(|name| self.rates(name));
        let raw = [0, 1].map(|i| raw.iter().map(|rates| rates[i]).fold(0.0, f64::max));
        for name in ["save", "save direct", "save buffered"] {
            of(name, "raw", raw);
        }
        let raw = ["raw read, 1", "raw read, 2", "raw read, 4"].map(|name| self.rates(name));
        let raw = [0, 1].map(|i| raw.iter().map(|rates| rates[i]).fold(0.0, f64::max));
        for name in ["verify, cold", "load, cold"] {
            of(name, "raw read", raw);
        }
        for (name, other) in [
            ("verify", "read and hash"),
            ("verify", "read, hash, CRC-32"),
            ("load into memory", "read into memory"),
            ("load into memory", "copy memory"),
        ] {
            of(name, other, self.rates(other));
        }
    }
}

/// Random bytes, which no disk compresses.
fn large_state() -> Checkpoint {
    states::model(TENSORS, |i| Storage::from_vec(states::random(i, TENSOR)))
}

fn small_state() -> Checkpoint {
    let (tensors, floats) = SMALL;
    states::model(tensors, |i| Storage::from_vec(states::random(i, 4 * floats)))
}

/// Saves, and removes what was saved once the time has been taken.
fn save(directory: &Path, io: Io, state: &Checkpoint) -> Duration {
    let directory = directory.join("run");
    let manager = CheckpointManager::create(&directory, Options::default().io(io)).unwrap();
    let (time, saved) = timed(|| manager.save(state.clone()));
    assert!(saved.unwrap().warnings.is_empty());
    std::fs::remove_dir_all(directory).unwrap();
    settle();
    time
}

fn write(table: &mut Table, directory: &Path, states: [&Checkpoint; 2], bytes: &[&[u8]]) {
    let raw = directory.join("raw");
    for (name, writers) in [("raw, 1 writer", 1), ("raw, 2 writers", 2), ("raw, 4 writers", 4)] {
        table.add(name, TOTAL, raw::write_direct(&raw, bytes, writers));
        std::fs::remove_file(&raw).unwrap();
        settle();
    }
    for (name, io) in
        [("save", Io::Auto), ("save direct", Io::Direct), ("save buffered", Io::Buffered)]
    {
        table.add(name, TOTAL, save(directory, io, states[0]));
    }
    table.add("save 20,000 tensors", SMALL.0 * SMALL.1 * 4, save(directory, Io::Auto, states[1]));
}

/// Reads a file that is not in the page cache.
fn read_cold(table: &mut Table, path: &Path, memory: &mut [Vec<u8>]) {
    let threads = default_threads();
    for (name, readers) in [("raw read, 1", 1), ("raw read, 2", 2), ("raw read, 4", 4)] {
        raw::forget(path);
        table.add(name, TOTAL, raw::read_direct(path, readers));
    }
    raw::forget(path);
    let (time, damage) = timed(|| open(path).verify(threads));
    assert!(damage.is_empty());
    table.add("verify, cold", TOTAL, time);
    raw::forget(path);
    table.add("load, cold", TOTAL, load(path, memory));
}

fn open(path: &Path) -> CheckpointFile {
    file::open(path, Unprotected::Refuse).unwrap()
}

/// Reads all tensors into memory that is there.
fn load(path: &Path, memory: &mut [Vec<u8>]) -> Duration {
    let (time, ()) = timed(|| {
        let tree = open(path).tree().unwrap();
        let storages = tree.storages();
        let destinations = storages.iter().zip(memory);
        let destinations = destinations.map(|((name, storage), bytes)| Destination {
            name,
            storage,
            bytes,
            is_new: false,
        });
        read_into(destinations.collect(), default_threads()).unwrap();
    });
    time
}

/// Reads a file that is in the page cache.
fn read(table: &mut Table, path: &Path, bytes: &[&[u8]], memory: &mut [Vec<u8>]) {
    let threads = default_threads();
    table.add("read", TOTAL, raw::read(path, threads, |_| {}));
    let hash = |step: &[u8]| {
        black_box(raw::hash(step));
    };
    table.add("read and hash", TOTAL, raw::read(path, threads, hash));
    let hash_and_crc = |step: &[u8]| {
        black_box((raw::hash(step), crc32fast::hash(step)));
    };
    table.add("read, hash, CRC-32", TOTAL, raw::read(path, threads, hash_and_crc));
    let (time, damage) = timed(|| open(path).verify(threads));
    assert!(damage.is_empty());
    table.add("verify", TOTAL, time);

    table.add("read into memory", TOTAL, raw::read_into(path, memory, threads));
    table.add("copy memory", TOTAL, raw::copy(bytes, memory, threads));
    table.add("load into memory", TOTAL, load(path, memory));
    let (time, loaded) = timed(|| open(path).tree().unwrap().resident(threads).unwrap());
    table.add("load into new memory", TOTAL, time);
    drop(loaded);
    let one = |tree: &Value| {
        let tensor = tree.lookup("model_state_dict.layer.40.weight").and_then(Value::as_tensor);
        tensor.unwrap().clone()
    };
    let (time, tensor) = timed(|| one(&open(path).tree().unwrap()).to_bytes().unwrap());
    assert!(tensor == bytes[40]);
    table.add("one tensor, new memory", TENSOR, time);
    let bytes = &mut memory[40];
    let (time, ()) = timed(|| {
        let tensor = one(&open(path).tree().unwrap());
        let name = "layer.40.weight";
        let to = Destination { name, storage: tensor.storage(), bytes, is_new: false };
        read_into(vec![to], threads).unwrap();
    });
    table.add("one tensor, live memory", TENSOR, time);
}

fn main() {
    let directory = std::env::args_os().nth(1).map_or_else(|| "target".into(), PathBuf::from);
    let directory = tempfile::tempdir_in(directory).unwrap();
    let (large, small) = (large_state(), small_state());
    let storages = large.model_state_dict.storages();
    let bytes: Vec<&[u8]> =
        storages.iter().map(|(_, storage)| storage.as_slice().unwrap()).collect();
    let mut memory: Vec<Vec<u8>> = bytes.iter().map(|bytes| bytes.to_vec()).collect();

    let options = Options::default().io(Io::Buffered);
    let manager = CheckpointManager::create(directory.path().join("warm"), options).unwrap();
    let path = manager.save(large.clone()).unwrap().path;
    let mut table = Table::default();
    for _ in 0..ROUNDS {
        write(&mut table, directory.path(), [&large, &small], &bytes);
        read_cold(&mut table, Path::new(&path), &mut memory);
        read(&mut table, Path::new(&path), &bytes, &mut memory);
    }
    table.print();
}
