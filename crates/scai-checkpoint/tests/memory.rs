//! Nothing the engine does with a state takes memory in proportion to it, beside the state itself.
//! A binary of its own, so that nothing else is in the memory that is measured.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test looks at real files and prints what it saw"
)]

use std::fs;
use std::sync::Arc;

use scai_checkpoint::codec::dcp::DistributedPlan;
use scai_checkpoint::codec::{Format, Origin, Plan, Unprotected};
use scai_checkpoint::manager::Residency;
use scai_checkpoint::store::Io;
use scai_checkpoint::tensor::{Destination, Source, Storage, read_into};
use scai_checkpoint::{Checkpoint, CheckpointManager, DType, Dict, Options, Result, Tensor, file};

/// What may be held beside the state, whatever its size.
const LIMIT: u64 = 64 << 20;
/// More threads than any default has.
const THREADS: usize = 16;

/// The length of the state.
fn size() -> u64 {
    match std::env::var("SCAI_PROOFS") {
        Ok(proofs) if proofs == "full" => 2 << 30,
        _ => 320 << 20,
    }
}

/// Bytes that follow from their place and take no memory.
struct Made {
    len: u64,
    seed: u64,
}

impl Made {
    fn fill(&self, offset: u64, buf: &mut [u8]) {
        for (word, at) in buf.chunks_mut(8).zip((offset..).step_by(8)) {
            let number = (at ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            word.copy_from_slice(&number.to_le_bytes()[..word.len()]);
        }
    }
}

impl Source for Made {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.fill(offset, buf);
        Ok(())
    }
}

/// One tensor of half the state, and many that share the rest.
fn state() -> Checkpoint {
    const MANY: u64 = 256;
    let tensor = |seed: u64, len: u64| {
        let storage = Storage::new(Arc::new(Made { len, seed }));
        Tensor::contiguous(DType::Float32, vec![len as usize / 4], storage).unwrap()
    };
    let mut model: Dict =
        (1..=MANY).map(|i| (format!("layer.{i}.weight"), tensor(i, size() / 2 / MANY))).collect();
    model.insert("embedding.weight", tensor(0, size() / 2));
    Checkpoint::new(1, model, Dict::new())
}

/// A line of `/proc/self/status` in bytes.
fn status(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse::<u64>().unwrap()
        << 10
}

/// As [`within`], for the usual limit.
fn within_the_limit<T>(what: &str, start: u64, held: u64, work: impl FnOnce() -> T) -> T {
    within(LIMIT, what, start, held, work)
}

/// Does `work`, and holds the memory of the process at its highest to the limit, without what it
/// took at the `start` of everything and the `held` bytes of the state.
fn within<T>(limit: u64, what: &str, start: u64, held: u64, work: impl FnOnce() -> T) -> T {
    // The highest mark begins anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let result = work();
    let extra = status("VmHWM").saturating_sub(start + held);
    println!("{what}: {:.1} MiB beside a state of {} MiB", extra as f64 / 1048576.0, size() >> 20);
    assert!(extra <= limit, "{what} took {} MiB", extra >> 20);
    result
}

#[test]
fn a_state_of_any_size_is_saved_verified_resumed_loaded_and_converted_in_little_memory() {
    if fs::write("/proc/self/clear_refs", "5").is_err() {
        println!("SKIPPED: this system does not measure the memory of a process");
        eprintln!("SKIPPED: this system does not measure the memory of a process");
        return;
    }
    let start = status("VmRSS");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let manager = |io, memory| {
        let options = Options::default().io(io).memory(memory).threads(THREADS);
        CheckpointManager::create(directory.path(), options).unwrap()
    };
    let state = state();
    // The small limit first: what threads have held, the allocator keeps.
    for limit in [LIMIT / 4, LIMIT] {
        for io in [Io::Buffered, Io::Direct] {
            let what = format!("save {io:?} in {} MiB", limit >> 20);
            within(limit, &what, start, 0, || manager(io, limit).save(state.clone()).unwrap());
        }
    }
    let manager = manager(Io::Auto, LIMIT);
    let path = directory.path().join("checkpoint_iter_1.pt");
    let verification =
        within_the_limit("verify", start, 0, || file::verify(&path, THREADS).unwrap());
    assert!(verification.is_sound() && verification.len > size());
    let resumed = within_the_limit("resume, tensors on disk", start, 0, || {
        manager.resume_with(Residency::Disk).unwrap().unwrap()
    });
    assert_eq!(resumed.checkpoint.iteration, 1);

    let tree = resumed.checkpoint.model_state_dict;
    for (format, name) in [(Format::Torch, "again.pt"), (Format::Safetensors, "again.safetensors")]
    {
        let again = directory.path().join(name);
        within_the_limit(&format!("convert to {format}"), start, 0, || {
            let plan = Plan::new(&tree, format).unwrap();
            file::write(&again, plan, THREADS).unwrap();
        });
        within_the_limit(&format!("verify {format}"), start, 0, || {
            let file = file::open(&again, Unprotected::Refuse).unwrap();
            assert!(file.verify(THREADS).is_empty());
        });
        fs::remove_file(again).unwrap();
    }

    let shards = directory.path().join("shards");
    within_the_limit("convert to a directory of shards", start, 0, || {
        let plan = DistributedPlan::new(&tree, None, Origin::Known).unwrap();
        file::write_distributed(&shards, plan, THREADS).unwrap();
    });
    within_the_limit("verify a directory of shards", start, 0, || {
        let file = file::open(&shards, Unprotected::Refuse).unwrap();
        assert!(file.verify(THREADS).is_empty());
    });
    for (format, name) in [(Format::Torch, "back.pt"), (Format::Safetensors, "back.safetensors")] {
        let back = directory.path().join(name);
        within_the_limit(&format!("convert a directory of shards to {format}"), start, 0, || {
            let tree = file::open(&shards, Unprotected::Refuse).unwrap().tree().unwrap();
            file::write(&back, Plan::new(&tree, format).unwrap(), THREADS).unwrap();
        });
        fs::remove_file(back).unwrap();
    }
    fs::remove_dir_all(shards).unwrap();

    let storages = tree.storages();
    let mut memory: Vec<Vec<u8>> =
        storages.iter().map(|(_, storage)| vec![1; storage.len() as usize]).collect();
    within_the_limit("load into memory", start, size(), || {
        let destinations = storages.iter().zip(&mut memory);
        let destinations = destinations.map(|((name, storage), bytes)| Destination {
            name,
            storage,
            bytes,
            is_new: false,
        });
        read_into(destinations.collect(), THREADS).unwrap();
    });
    let last = memory.last().unwrap();
    let mut expected = vec![0; last.len()];
    Made { len: last.len() as u64, seed: 0 }.fill(0, &mut expected);
    assert!(*last == expected, "the embedding is not what was saved");
}
