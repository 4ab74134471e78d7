//! `scai show` takes memory in proportion to the file, however many tensors it has. A binary of its
//! own, so that nothing else allocates.

#![allow(
    missing_docs,
    unsafe_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a counting allocator"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::OsString;
use std::sync::atomic::{AtomicUsize, Ordering};

use scai_checkpoint::codec::{Format, Plan};
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Dict, Tensor, Value, file};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and how many bytes were live at most.
struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of memory for a byte of a file that is nothing but tensors without elements, each of which
/// takes some 60 bytes there and a line of the output.
const TIMES: usize = 14;
/// Whatever the file: the command itself, and the rows of a table that are held at a time.
const BESIDES: usize = 12 << 20;

#[test]
fn a_hundred_thousand_empty_tensors_are_shown_within_a_few_times_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("many.pt");
    let storage = Storage::from_vec(vec![0_f32; 1]);
    let empty = Tensor::contiguous(DType::Float32, vec![0], storage).unwrap();
    let tree: Dict = (0..100_000).map(|i| (format!("t{i}"), empty.clone())).collect();
    file::write(&path, Plan::new(&Value::Dict(tree), Format::Torch).unwrap(), 1).unwrap();
    let len = std::fs::metadata(&path).unwrap().len() as usize;
    for options in [&[][..], &["--stats"]] {
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let words = ["scai", "show"].iter().chain(options).map(OsString::from);
        assert_eq!(scai_cli::main(words.chain([path.clone().into()])), 0);
        let peak = PEAK.load(Ordering::Relaxed) - before;
        assert!(
            peak < TIMES * len + BESIDES,
            "{options:?}: {} KiB for a file of {} KiB",
            peak >> 10,
            len >> 10
        );
    }
}
