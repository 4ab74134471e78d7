//! Out of memory as an error; the standard library would abort the process.
//!
//! Long allocations are made by [`zeroed`], or after [`room_for`] has checked that there is room.
//! Short ones are too common for that: a program whose allocator is [`WithReserve`] and that calls
//! [`keep_reserve`] sets some memory aside, which is released when a short allocation fails for the
//! first time. Then [`check`], called between pieces of work, is an error until that much can be
//! reserved again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::error::{Error, Result};

/// Memory that is set aside: address space that the system has promised, without any page in use.
const RESERVE: usize = 16 << 20;

/// Longer allocations do not take the reserve: it might not be enough for them.
const SHORT: usize = 8 << 20;

/// Free memory that starting a thread needs: its stack of 2 MiB, and what others that start at the
/// same time may take.
const THREAD: usize = 12 << 20;

static RESERVED: AtomicPtr<std::ffi::c_void> = AtomicPtr::new(ptr::null_mut());
static IS_KEPT: AtomicBool = AtomicBool::new(false);

/// The system's allocator, which releases the reserve before a short allocation fails.
#[derive(Debug, Default, Clone, Copy)]
pub struct WithReserve;

/// Sets memory aside from now on. For programs whose global allocator is [`WithReserve`].
pub fn keep_reserve() {
    IS_KEPT.store(true, Ordering::Relaxed);
    let _ = check("begin");
}

/// Checks that memory for short allocations is still set aside. Always `Ok` in programs that keep none.
///
/// # Errors
/// [`Error::OutOfMemory`] if it was released and cannot be reserved again.
pub fn check(action: &'static str) -> Result<()> {
    if !RESERVED.load(Ordering::Relaxed).is_null() || !IS_KEPT.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mapped = map(RESERVE).ok_or_else(|| Error::out_of_memory(action, RESERVE as u64))?;
    let null = ptr::null_mut();
    if RESERVED.compare_exchange(null, mapped, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        unmap(mapped, RESERVE);
    }
    Ok(())
}

/// Checks that there is memory for `bytes` bytes.
///
/// # Errors
/// [`Error::OutOfMemory`] if there is not.
pub fn room_for(bytes: usize, action: &'static str) -> Result<()> {
    // Asks the system itself: allocators adapt to the lengths that they are asked for.
    match map(bytes.max(1)) {
        Some(mapped) => {
            unmap(mapped, bytes.max(1));
            Ok(())
        }
        None => Err(Error::out_of_memory(action, bytes as u64)),
    }
}

/// Whether a thread can be started. The C library aborts the process if a thread that has its stack
/// finds no memory for its thread-local variables, so there must be more than it needs.
pub fn room_for_thread() -> bool {
    room_for(THREAD, "start a thread").is_ok()
}

/// `len` zeros. The system provides zeroed pages, and allocates them when they are written.
///
/// # Errors
/// [`Error::OutOfMemory`] if there is no memory for them.
pub fn zeroed(len: u64, action: &'static str) -> Result<Box<[u8]>> {
    let bytes = usize::try_from(len).ok();
    let zeroed = bytes.and_then(|len| bytemuck::allocation::try_zeroed_slice_box(len).ok());
    zeroed.ok_or_else(|| Error::out_of_memory(action, len))
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends memory of the thread, which holds whatever was written there before.
pub(crate) fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    // Taken out, so that `work` may ask for some too.
    let mut memory = SCRATCH.take();
    if memory.len() < len {
        memory.resize(len, 0);
    }
    let done = work(&mut memory[..len]);
    SCRATCH.with_borrow_mut(|kept| {
        if kept.len() < memory.len() {
            *kept = memory;
        }
    });
    done
}

fn map(bytes: usize) -> Option<*mut std::ffi::c_void> {
    let writable = ProtFlags::READ | ProtFlags::WRITE;
    #[expect(unsafe_code, reason = "the standard library knows no memory without use")]
    // SAFETY: the kernel chooses where; nothing that exists is touched.
    let mapped = unsafe { mmap_anonymous(ptr::null_mut(), bytes, writable, MapFlags::PRIVATE) };
    mapped.ok()
}

fn unmap(mapped: *mut std::ffi::c_void, bytes: usize) {
    #[expect(unsafe_code, reason = "memory of the kernel")]
    // SAFETY: it was mapped by `map` with this length, and nobody uses it.
    let _ = unsafe { munmap(mapped, bytes) };
}

/// Releases the reserve for an allocation of this many bytes; returns whether there was one.
#[cold]
fn give_up(bytes: usize) -> bool {
    if bytes > SHORT {
        return false;
    }
    let mapped = RESERVED.swap(ptr::null_mut(), Ordering::Relaxed);
    if !mapped.is_null() {
        unmap(mapped, RESERVE);
    }
    !mapped.is_null()
}

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: every call is the system allocator's own, with the caller's arguments, perhaps twice.
unsafe impl GlobalAlloc for WithReserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut found = unsafe { System.alloc(layout) };
        if found.is_null() && give_up(layout.size()) {
            found = unsafe { System.alloc(layout) };
        }
        found
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let mut found = unsafe { System.alloc_zeroed(layout) };
        if found.is_null() && give_up(layout.size()) {
            found = unsafe { System.alloc_zeroed(layout) };
        }
        found
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        let mut found = unsafe { System.realloc(old, layout, len) };
        if found.is_null() && give_up(len) {
            found = unsafe { System.realloc(old, layout, len) };
        }
        found
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) };
    }
}
