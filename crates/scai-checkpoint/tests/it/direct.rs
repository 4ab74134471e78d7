//! Writing past the page cache: the same bytes, and every source read once.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use scai_checkpoint::codec::{Format, Plan, Unprotected};
use scai_checkpoint::file::WriteOptions;
use scai_checkpoint::store::Io;
use scai_checkpoint::store::{Directory, LocalDirectory};
use scai_checkpoint::tensor::{Source, Storage};
use scai_checkpoint::{DType, Dict, Error, Result, Tensor, Value, file};

use crate::support::in_memory;
use crate::training::Random;

const MODES: [Io; 3] = [Io::Auto, Io::Direct, Io::Buffered];

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(len).collect()
}

fn tensor(storage: Storage) -> Tensor {
    Tensor::contiguous(DType::UInt8, vec![storage.len() as usize], storage).unwrap()
}

/// Tensors of every kind of length: none, small, large, divided, no whole number of anything.
fn tree() -> Value {
    let lengths = [0, 1, 4096, 70_000, (512 << 10) + 1, (4 << 20) - 1, 4 << 20, (9 << 20) + 12_345];
    let dict: Dict = lengths
        .into_iter()
        .map(|len| (format!("{len} bytes"), tensor(Storage::from_vec(bytes(len, len as u64)))))
        .collect();
    Value::Dict(dict)
}

/// A directory on a disk: `tmpfs`, where `/tmp` may be, takes direct writes as any others.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn the_bytes_of_a_file_do_not_depend_on_how_they_reach_the_device() {
    let directory = directory();
    for format in [Format::Torch, Format::Safetensors] {
        let plan = Plan::new(&tree(), format).unwrap();
        let expected = in_memory(plan.len(), |file| plan.write(1, file)).unwrap();
        for io in MODES {
            for threads in [1, 3] {
                let path = directory.path().join("file");
                let plan = Plan::new(&tree(), format).unwrap();
                file::write(&path, plan, WriteOptions::from(threads).io(io)).unwrap();
                assert!(fs::read(&path).unwrap() == expected, "{format}, {io:?}, {threads}");
            }
        }
    }
}

#[test]
fn bytes_at_any_place_in_memory_and_in_the_file_are_written() {
    let directory = directory();
    let mut random = Random(7);
    let memory = bytes(40_000, 8);
    for io in MODES {
        let store = LocalDirectory::open(directory.path()).unwrap().with_io(io);
        for _ in 0..60 {
            let (skip, len) = (random.below(5000) as usize, 1 + random.below(35_000) as usize);
            let offset = match random.below(3) {
                // In step with memory, so that pages go straight to the device.
                0 => (memory[skip..].as_ptr().addr() % 4096) as u64,
                1 => 4096 * random.below(3),
                _ => random.below(9000),
            };
            let draft = store.create(offset + len as u64).unwrap();
            draft.write_at(offset, &memory[skip..skip + len]).unwrap();
            let path = directory.path().join(draft.sync().unwrap().name());
            let written = fs::read(&path).unwrap();
            assert!(written[..offset as usize].iter().all(|&byte| byte == 0));
            assert!(
                written[offset as usize..] == memory[skip..skip + len],
                "{io:?} {offset} {len}"
            );
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn several_threads_write_neighbouring_runs_that_share_pages() {
    let directory = directory();
    let content = bytes(3 << 20, 9);
    for io in MODES {
        let store = LocalDirectory::open(directory.path()).unwrap().with_io(io);
        let draft = store.create(content.len() as u64).unwrap();
        let mut runs = Vec::new();
        let (mut random, mut at) = (Random(10), 0);
        while at < content.len() {
            let end = (at + 1 + random.below(20_000) as usize).min(content.len());
            runs.push(at..end);
            at = end;
        }
        let runs = Mutex::new(runs.into_iter());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Memory in step with the file.
                    let mut memory = vec![0; content.len() + 4096];
                    let start = memory.as_ptr().align_offset(4096);
                    memory[start..start + content.len()].copy_from_slice(&content);
                    loop {
                        let next = runs.lock().unwrap().next();
                        let Some(run) = next else { break };
                        let bytes = &memory[start + run.start..start + run.end];
                        draft.write_at(run.start as u64, bytes).unwrap();
                    }
                });
            }
        });
        let path = directory.path().join(draft.sync().unwrap().name());
        assert!(fs::read(&path).unwrap() == content, "{io:?}");
        fs::remove_file(&path).unwrap();
    }
}

/// Memory that changes with every read, as that of a training that goes on.
struct Live {
    len: u64,
    /// How often each byte was read.
    reads: Mutex<Vec<u8>>,
    generation: AtomicU64,
}

impl Live {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Self {
            len: len as u64,
            reads: Mutex::new(vec![0; len]),
            generation: AtomicU64::new(0),
        })
    }
}

impl Source for Live {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = (offset as usize + i) as u8 ^ generation as u8;
        }
        let start = offset as usize;
        self.reads.lock().unwrap()[start..start + buf.len()].iter_mut().for_each(|n| *n += 1);
        Ok(())
    }
}

#[test]
fn a_source_that_changes_is_read_once_and_its_digests_are_of_what_was_written() {
    let directory = directory();
    for format in [Format::Torch, Format::Safetensors] {
        for io in MODES {
            let sources = [1, 4096, 700_000, 4 << 20, (9 << 20) + 12_345].map(Live::new);
            let dict: Dict = sources
                .iter()
                .map(|live| (live.len.to_string(), tensor(Storage::new(Arc::clone(live) as _))))
                .collect();
            let path = directory.path().join("live");
            let plan = Plan::new(&Value::Dict(dict), format).unwrap();
            file::write(&path, plan, WriteOptions::from(2).io(io)).unwrap();
            for live in &sources {
                let reads = live.reads.lock().unwrap();
                assert!(reads.iter().all(|&n| n == 1), "{format}, {io:?}, {} bytes", live.len);
            }
            let file = file::open(&path, Unprotected::Refuse).unwrap();
            let damage = file.verify(2);
            assert!(damage.is_empty(), "{format}, {io:?}: {damage:?}");
            file.tree().unwrap().resident(2).unwrap();
        }
    }
}

/// Memory of which the second half is gone.
struct Failing;

impl Source for Failing {
    fn len(&self) -> u64 {
        20 << 20
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset > 10 << 20 {
            return Err(Error::Invalid("the memory is gone".to_owned()));
        }
        buf.fill(1);
        Ok(())
    }
}

#[test]
fn a_source_that_fails_leaves_nothing_behind_however_it_is_written() {
    let directory = directory();
    for io in MODES {
        let tree: Dict = [("gone", tensor(Storage::new(Arc::new(Failing))))].into_iter().collect();
        let plan = Plan::new(&Value::Dict(tree), Format::Torch).unwrap();
        let error = file::write(directory.path().join("x.pt"), plan, WriteOptions::from(2).io(io))
            .unwrap_err();
        assert!(error.to_string().contains("the memory is gone"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn where_there_is_no_direct_io_files_are_written_all_the_same() {
    let Some(directory) = without_direct_io() else { return };
    let path = directory.path().join("file.pt");
    file::write(
        &path,
        Plan::new(&tree(), Format::Torch).unwrap(),
        WriteOptions::from(2).io(Io::Direct),
    )
    .unwrap();
    let file = file::open(&path, Unprotected::Refuse).unwrap();
    assert!(file.verify(1).is_empty());
}

/// A directory in memory, whose file system takes direct I/O for what it is or refuses it.
fn without_direct_io() -> Option<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    memory.is_dir().then(|| tempfile::tempdir_in(memory).unwrap())
}
