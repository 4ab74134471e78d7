//! Hostile files are refused, or loaded as the honest file they were made from, within the file's
//! size and 64 MiB of memory. The slowest is printed: on a busy machine a limit on time would fail
//! for no fault of the code. A binary of its own, so that nothing else allocates.

#![allow(
    missing_docs,
    dead_code,
    unsafe_code,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::octal_escapes,
    clippy::type_complexity,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a counting allocator; helpers shared with the other tests"
)]

#[path = "it/forge.rs"]
mod forge;
#[path = "it/fuzz_checks.rs"]
mod fuzz_checks;
#[path = "it/hostile_cases/mod.rs"]
mod hostile_cases;
#[path = "it/support.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fuzz_checks::Fingerprint;
use hostile_cases::Expect;
use scai_checkpoint::Value;
use scai_checkpoint::codec::torch::{TorchFile, Unprotected};
use support::Bytes;

/// A time above which a file is tried again, since the machine may have been busy.
const SLOW: Duration = Duration::from_millis(500);
const MAX_MEMORY: usize = 64 << 20;
/// The test ends at once where this much is live.
const MAX_AT_ALL: usize = 2 << 30;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The file that is being loaded.
static CASE: Mutex<&'static str> = Mutex::new("");

/// The system's allocator, and how many bytes were live at most.
struct Counting;

impl Counting {
    fn grow(bytes: usize) {
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(live, Ordering::Relaxed);
        if live > MAX_AT_ALL {
            // Better than taking the machine's memory. A panic is not allowed here.
            let name = CASE.try_lock().map(|name| *name).unwrap_or_default();
            eprintln!("hostile file {name:?} fills the memory: {bytes} bytes more");
            std::process::abort();
        }
    }
}

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may exist side by side.
        Self::grow(size);
        // SAFETY: the caller's promises are passed on.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens a file, reads its tree and every byte of its tensors.
fn load(file: Arc<Bytes>) -> scai_checkpoint::Result<Value> {
    TorchFile::open(file, Unprotected::Refuse)?.tree()?.resident(1)
}

/// As a caller does who accepts files without checksums.
fn load_unprotected(file: Arc<Bytes>) -> scai_checkpoint::Result<Value> {
    TorchFile::open(file, Unprotected::Accept)?.tree()?.resident(1)
}

#[test]
fn every_hostile_file_is_refused_or_harmless_within_its_limits() {
    let honest = load(Arc::new(Bytes(forge::honest().bytes()))).unwrap();
    let honest = Fingerprint::of(&honest);
    let cases = hostile_cases::all().0;
    let (mut refused, mut same, mut other) = (0, 0, 0);
    let mut failures = Vec::new();
    let mut slowest = (Duration::ZERO, String::new());
    let mut largest = (0, String::new());
    let only = std::env::var("SCAI_HOSTILE").unwrap_or_default();
    for case in cases.iter().filter(|case| case.name.contains(&only)) {
        let file = Arc::new(Bytes((case.make)()));
        let len = file.0.len();
        let load = if case.name.starts_with("legacy") { load_unprotected } else { load };
        *CASE.lock().unwrap() = String::leak(case.name.clone());
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let load = || {
            let start = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                load(Arc::clone(&file)).map_err(|error| error.to_string())
            }));
            (outcome, start.elapsed())
        };
        let (outcome, mut time) = load();
        let memory = PEAK.load(Ordering::Relaxed) - before;
        if time > SLOW {
            // The machine may have been busy with something else.
            time = time.min(load().1);
        }
        let mut fail = |why: String| failures.push(format!("{}: {why}", case.name));
        match &outcome {
            Err(_) => fail("it panics".to_owned()),
            Ok(Err(message)) => {
                refused += 1;
                match case.expect {
                    Expect::Refused(words) if !message.contains(words) => {
                        fail(format!("refused with `{message}`, not `{words}`"));
                    }
                    Expect::Same | Expect::Loads => fail(format!("refused with `{message}`")),
                    Expect::Refused(_) | Expect::RefusedOrSame => {}
                }
                if message.len() > 4096 || message.contains(|c: char| c.is_control() && c != '\n') {
                    fail(format!(
                        "the message is not fit to print: {:.200}",
                        message.escape_debug()
                    ));
                }
            }
            Ok(Ok(_)) if case.expect == Expect::Loads => other += 1,
            Ok(Ok(tree)) => {
                same += 1;
                if matches!(case.expect, Expect::Refused(_)) {
                    fail("it loads".to_owned());
                } else if Fingerprint::of(tree) != honest {
                    fail(format!("it loads as something else: {:.400}", format!("{tree:?}")));
                }
            }
        }
        if memory > MAX_MEMORY + len {
            fail(format!("it takes {} MiB for {} KiB", memory >> 20, len >> 10));
        }
        if time > slowest.0 {
            slowest = (time, case.name.clone());
        }
        if memory.saturating_sub(len) > largest.0 {
            largest = (memory.saturating_sub(len), case.name.clone());
        }
        if !only.is_empty() {
            println!(
                "{}: {time:?}, {} KiB: {:.300}",
                case.name,
                memory >> 10,
                format!("{outcome:?}")
            );
        }
    }
    println!(
        "{} hostile files: {refused} refused, {same} loaded as the honest file, {other} strange but \
         true; slowest {:?} ({}), most memory beyond the file {} KiB ({})",
        cases.len(),
        slowest.0,
        slowest.1,
        largest.0 >> 10,
        largest.1
    );
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}
