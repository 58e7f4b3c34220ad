//! An allocator that counts, so that the memory of a call is known to the byte. Resident memory is
//! not: an allocator keeps what was freed.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that are allocated, and the most there were since [`restart`].
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// mimalloc, counted.
pub(crate) struct Counted;

/// Begins to look for the most from here; what is allocated now.
pub(crate) fn restart() -> usize {
    let live = LIVE.load(Relaxed);
    MOST.store(live, Relaxed);
    live
}

/// The most bytes since [`restart`] returned `resting`, above it.
pub(crate) fn most_above(resting: usize) -> usize {
    MOST.load(Relaxed).saturating_sub(resting)
}

fn taken(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    MOST.fetch_max(live, Relaxed);
}

// SAFETY: every call is handed on as it came to an allocator that keeps the contract; counting
// allocates nothing.
unsafe impl GlobalAlloc for Counted {
    // SAFETY: the contract is the trait's.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    // SAFETY: the contract is the trait's.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise.
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }

    // SAFETY: the contract is the trait's.
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        taken(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { mimalloc::MiMalloc.realloc(memory, layout, size) }
    }

    // SAFETY: the contract is the trait's.
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { mimalloc::MiMalloc.dealloc(memory, layout) }
    }
}
