//! What it costs to list a large directory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use scai_checkpoint::store::{Directory, Draft, Entry, LocalDirectory, Lock, ReadAt};
use scai_checkpoint::{CheckpointManager, Options};

use crate::support::{names, over, write};
use crate::training::{Save, Size, name, state};

const COUNT: u64 = 1000;
/// More than this is not needed to show a checkpoint in a list.
const ENOUGH: u64 = 8 << 10;

#[derive(Debug, Default)]
struct Cost {
    opened: AtomicU64,
    reads: AtomicU64,
    bytes: AtomicU64,
}

/// A store that counts what is read.
#[derive(Debug)]
struct Counting<S> {
    store: S,
    cost: Arc<Cost>,
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn ReadAt>,
    cost: Arc<Cost>,
}

impl ReadAt for CountingFile {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.cost.reads.fetch_add(1, Ordering::Relaxed);
        self.cost.bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.file.read_at(offset, buf)
    }
}

impl<S: Directory> Directory for Counting<S> {
    fn create(&self, len: u64) -> io::Result<Box<dyn Draft>> {
        self.store.create(len)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        self.cost.opened.fetch_add(1, Ordering::Relaxed);
        let file = self.store.open(name)?;
        Ok(Arc::new(CountingFile { file, cost: Arc::clone(&self.cost) }))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.store.list()
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

#[test]
fn listing_1000_checkpoints_reads_only_their_beginnings() {
    let directory = tempfile::tempdir().unwrap();
    for iteration in 1..=COUNT {
        let mut checkpoint = state(Save { iteration, writer: 1 }, Size::Medium);
        checkpoint.timestamp = Some("2026-01-01T00:00:00+00:00".to_owned());
        let file = write(&checkpoint.into_tree().unwrap()).unwrap();
        std::fs::write(directory.path().join(name(iteration)), file).unwrap();
    }

    let start = Instant::now();
    let mut size = 0;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        size += entry.unwrap().metadata().unwrap().len();
    }
    let ls = start.elapsed();

    let cost = Arc::new(Cost::default());
    let store = LocalDirectory::open(directory.path()).unwrap();
    let store = over(Counting { store, cost: Arc::clone(&cost) });
    let manager = CheckpointManager::with_store(store, Options::default());
    let start = Instant::now();
    let listed = manager.list().unwrap();
    let list = start.elapsed();

    assert_eq!(listed.len() as u64, COUNT);
    for (iteration, listed) in (1..).zip(&listed) {
        assert_eq!((listed.iteration, &listed.problem), (iteration, &None));
        assert_eq!(listed.training_stats.number("total_iterations"), Some(iteration as f64));
        assert_eq!(listed.metadata.number("writer"), Some(1.0));
    }
    let [opened, reads, bytes] =
        [&cost.opened, &cost.reads, &cost.bytes].map(|count| count.load(Ordering::Relaxed));
    println!(
        "list of {COUNT} checkpoints ({size} bytes): {opened} files opened, {reads} reads, {bytes} \
         bytes ({} each, {:.2} %), {list:?}; names and lengths alone (`ls -l`): {ls:?}",
        bytes / COUNT,
        bytes as f64 * 100.0 / size as f64
    );
    // One more: the record of those that a run went back behind.
    assert!(opened <= COUNT + 1 && bytes <= COUNT * ENOUGH, "{cost:?}");

    let expected: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
    assert_eq!(names(&manager), expected);
    assert_eq!(cost.opened.load(Ordering::Relaxed), opened, "names alone open no file");
}
