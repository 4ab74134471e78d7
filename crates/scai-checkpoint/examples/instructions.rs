//! One thing that the engine does, once, for callgrind to count its instructions.
//!
//! ```sh
//! make instructions                                                  # counts all, and compares
//! cargo run --release -p scai-checkpoint --example instructions      # names the cases
//! cargo run --release -p scai-checkpoint --example instructions plan # does one
//! ```
//!
//! One thread, files in memory, equal bytes in every run. What a case needs is made first; only
//! what happens inside [`measured`] counts, which is what `bench/instructions.py` looks for by its
//! name. What is made there is dropped there, and counts too.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement beside the engine: plain output, no recovery"
)]

#[path = "support/memory.rs"]
mod memory;
#[path = "support/states.rs"]
mod states;
#[path = "support/training.rs"]
mod training;

use std::hint::black_box;
use std::sync::Arc;

use memory::{open, planned, written};
use scai_checkpoint::codec::{Format, Plan, torch};
use scai_checkpoint::store::MemoryStore;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{CheckpointManager, Options, Value};

/// A case: its name, and what makes all that it needs and returns the work.
type Case = (&'static str, fn() -> Box<dyn FnOnce()>);

const CASES: [Case; 14] = [
    ("plan", || plan(Format::Torch)),
    ("write", || write(many(), Format::Torch)),
    ("open", || tree(Format::Torch)),
    ("load", || load(many(), Format::Torch)),
    ("verify", || verify(many(), Format::Torch)),
    ("peek", peek),
    ("list", list),
    ("write 16 MiB", || write(long(), Format::Torch)),
    ("load 16 MiB", || load(long(), Format::Torch)),
    ("verify 16 MiB", || verify(long(), Format::Torch)),
    ("safetensors plan", || plan(Format::Safetensors)),
    ("safetensors write", || write(many(), Format::Safetensors)),
    ("safetensors open", || tree(Format::Safetensors)),
    ("safetensors load", || load(many(), Format::Safetensors)),
];

/// 2,000 small tensors: 500 parameters of 64 floats, and their state of Adam.
fn many() -> Value {
    training::state(500, 64).into_tree().unwrap()
}

/// 16 MiB in 4 tensors.
fn long() -> Value {
    let storage = |i| Storage::from_vec(states::random(i, 4 << 20));
    states::model(4, storage).into_tree().unwrap()
}

/// The pickle or the header, the manifest, and every offset.
fn plan(format: Format) -> Box<dyn FnOnce()> {
    let tree = many();
    Box::new(move || drop(black_box(Plan::new(&tree, format).unwrap())))
}

/// The bytes, their digests and checksums.
fn write(tree: Value, format: Format) -> Box<dyn FnOnce()> {
    let (plan, draft) = planned(&tree, format);
    Box::new(move || drop(plan.write(1, &*draft).unwrap()))
}

/// What comes before the first tensor is read.
fn tree(format: Format) -> Box<dyn FnOnce()> {
    let file = written(&many(), format);
    Box::new(move || drop(black_box(open(&file).tree().unwrap())))
}

fn load(tree: Value, format: Format) -> Box<dyn FnOnce()> {
    let tree = open(&written(&tree, format)).tree().unwrap();
    Box::new(move || drop(black_box(tree.resident(1).unwrap())))
}

fn verify(tree: Value, format: Format) -> Box<dyn FnOnce()> {
    let file = open(&written(&tree, format));
    Box::new(move || assert!(file.verify(1).is_empty()))
}

/// The manifest alone.
fn peek() -> Box<dyn FnOnce()> {
    let file = written(&many(), Format::Torch);
    Box::new(move || drop(black_box(torch::peek(&*file).unwrap())))
}

/// A directory of 20 checkpoints.
fn list() -> Box<dyn FnOnce()> {
    let manager = CheckpointManager::with_store(Arc::new(MemoryStore::new()), Options::default());
    let mut state = training::state(1, 64);
    state.timestamp = Some("2026-01-01T00:00:00.000000+00:00".to_owned());
    for iteration in 0..20 {
        state.iteration = iteration;
        manager.save(state.clone()).unwrap();
    }
    Box::new(move || drop(black_box(manager.list().unwrap())))
}

/// What counts. It stays a function, and calls the work instead of jumping to it.
#[inline(never)]
fn measured(work: Box<dyn FnOnce()>) {
    work();
    black_box(());
}

/// The standard library takes the keys of its hash maps from here, else from the C library. With
/// the zeros that its buffer holds already, all runs have equal maps and count alike.
#[allow(unsafe_code, reason = "the name is that of the C library, and the contract is kept")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(_buffer: *mut u8, len: usize, _flags: u32) -> isize {
    len.cast_signed()
}

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    let case = CASES.iter().find(|case| case.0 == name);
    measured(case.unwrap().1());
}
