//! The engine's parts, each by itself: `make bench-parts`.
//!
//! One thread, files in memory. `make bench-engine` measures the whole on a disk, and
//! `make instructions` counts.

#![allow(clippy::unwrap_used, reason = "a measurement beside the engine: no recovery")]

#[path = "../examples/support/memory.rs"]
mod memory;
#[path = "../examples/support/states.rs"]
mod states;
#[path = "../examples/support/training.rs"]
mod training;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use memory::{open, planned, written};
use scai_checkpoint::codec::torch::peek;
use scai_checkpoint::codec::{Format, Plan};
use scai_checkpoint::tensor::{Destination, Storage, read_into};
use scai_checkpoint::{CHUNK_SIZE, Value};
use twox_hash::XxHash3_128;

/// Tensors of [`many`].
const TENSORS: usize = 2_000;
/// Bytes of [`long`].
const BYTES: usize = 16 << 20;

fn main() {
    divan::main();
}

/// Many small tensors: a quarter of them parameters, the others their state of Adam.
fn many() -> Value {
    training::state(TENSORS / 4, 64).into_tree().unwrap()
}

/// Four long tensors.
fn long() -> Value {
    states::model(4, |i| Storage::from_vec(states::random(i, BYTES / 4))).into_tree().unwrap()
}

mod bytes {
    use super::*;

    fn each_chunk<T>(bencher: Bencher<'_, '_>, work: impl Fn(&[u8]) -> T + Sync) {
        let words = states::random(0, BYTES);
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        bencher.counter(BytesCount::new(BYTES)).bench(|| {
            bytes.chunks(CHUNK_SIZE).for_each(|chunk| drop(black_box(work(black_box(chunk)))));
        });
    }

    #[divan::bench]
    fn digest(bencher: Bencher<'_, '_>) {
        each_chunk(bencher, XxHash3_128::oneshot);
    }

    #[divan::bench]
    fn crc32(bencher: Bencher<'_, '_>) {
        each_chunk(bencher, crc32fast::hash);
    }

    #[divan::bench(args = [Format::Torch, Format::Safetensors])]
    fn write(bencher: Bencher<'_, '_>, format: Format) {
        let tree = long();
        bencher
            .counter(BytesCount::new(BYTES))
            .with_inputs(|| planned(&tree, format))
            .bench_values(|(plan, draft)| plan.write(1, &*draft).unwrap());
    }

    #[divan::bench(args = [Format::Torch, Format::Safetensors])]
    fn verify(bencher: Bencher<'_, '_>, format: Format) {
        let file = written(&long(), format);
        bencher
            .counter(BytesCount::new(BYTES))
            .bench_local(|| assert!(open(&file).verify(1).is_empty()));
    }

    #[divan::bench(args = [Format::Torch, Format::Safetensors])]
    fn read_into_memory(bencher: Bencher<'_, '_>, format: Format) {
        let tree = open(&written(&long(), format)).tree().unwrap();
        let storages = tree.storages();
        let mut memory = vec![vec![1; BYTES / 4]; storages.len()];
        bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
            let destinations = storages.iter().zip(&mut memory);
            let destinations = destinations.map(|((name, storage), bytes)| Destination {
                name,
                storage,
                bytes,
                is_new: false,
            });
            read_into(destinations.collect(), 1).unwrap();
        });
    }
}

mod tensors {
    use super::*;

    #[divan::bench(args = [Format::Torch, Format::Safetensors])]
    fn plan(bencher: Bencher<'_, '_>, format: Format) {
        let tree = many();
        bencher
            .counter(ItemsCount::new(TENSORS))
            .bench_local(|| Plan::new(black_box(&tree), format).unwrap());
    }

    /// The manifest alone, which says nothing of single tensors.
    #[divan::bench]
    fn manifest(bencher: Bencher<'_, '_>) {
        let file = written(&many(), Format::Torch);
        bencher.bench_local(|| peek(&*file).unwrap());
    }

    #[divan::bench(args = [Format::Torch, Format::Safetensors])]
    fn open_tree(bencher: Bencher<'_, '_>, format: Format) {
        let file = written(&many(), format);
        bencher.counter(ItemsCount::new(TENSORS)).bench_local(|| open(&file).tree().unwrap());
    }

    #[divan::bench(args = [Format::Torch, Format::Safetensors])]
    fn load(bencher: Bencher<'_, '_>, format: Format) {
        let file = written(&many(), format);
        bencher
            .counter(ItemsCount::new(TENSORS))
            .bench_local(|| open(&file).tree().unwrap().resident(1).unwrap());
    }
}
