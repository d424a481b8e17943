//! Memory on large pages. A walk through a graph reads lines from all over an array, and with pages of 4 KB nearly
//! every one of them misses the table of addresses (TLB) as well as the cache.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::LINE;

/// Bytes of a large page.
const LARGE: usize = 2 << 20;

/// The system's allocator, but long arrays of cache lines begin with a large page: Linux gives none to what does not fill one, so that
/// of 4 MB that begin elsewhere half lies on small pages.
#[derive(Debug)]
pub struct Memory;

/// Whether memory of this layout begins with a large page.
fn is_long(layout: Layout) -> bool {
    cfg!(target_os = "linux") && layout.align() >= LINE && layout.size() >= LARGE
}

/// The layout that the system is asked for.
fn placed(layout: Layout) -> Layout {
    if is_long(layout) { layout.align_to(LARGE).unwrap_or(layout) } else { layout }
}

// SAFETY: all memory is the system's, which gets it back with the layout it was asked for: that depends on the caller's alone, is as
// long, and at least as strict.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's layout, this one has a size.
        unsafe { System.alloc(placed(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(placed(layout)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller got this memory for this layout, so the system gave it for the other one.
        unsafe { System.dealloc(memory, placed(layout)) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller says that this size, rounded up to the alignment, is one.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !is_long(layout) && !is_long(wanted) {
            // SAFETY: the caller's own promises.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // What has such an alignment the system would copy as well.
        // SAFETY: two pieces of memory, neither shorter than what is copied; the old one is given back once.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(memory, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }
}

/// A vector of `count` values, on 2 MB pages where the system grants them. Only the request depends on the system.
pub fn filled<T: Copy>(count: usize, value: T) -> Vec<T> {
    let mut values = Vec::with_capacity(count);
    advise(values.spare_capacity_mut());
    values.resize(count, value);
    values
}

/// Bytes from which on a growing vector is not copied, lest there be two of it: the system may move its pages instead,
/// which breaks large ones up. Lines of the cache are copied always: [`Memory`] moves none of their pages.
const COPIED: usize = 256 << 20;

/// Makes room for `more` values at the end of a vector, on 2 MB pages where the system grants them. Asked for more
/// than there is room for, it makes room for as many again while that is copied, later for half, so that many small calls cost
/// little more than one.
pub fn reserve<T>(values: &mut Vec<T>, more: usize) {
    if values.capacity() - values.len() < more {
        let few = size_of_val(values.as_slice()) < COPIED;
        let more = more.max(if few { values.len() } else { values.len() / 2 });
        if few || align_of::<T>() >= LINE {
            let mut moved = Vec::with_capacity(values.len() + more);
            advise(moved.spare_capacity_mut());
            moved.append(values);
            *values = moved;
        } else {
            values.reserve(more);
            advise(values.spare_capacity_mut());
        }
    }
}

#[cfg(target_os = "linux")]
fn advise<T>(room: &mut [T]) {
    unsafe extern "C" {
        fn madvise(address: *mut u8, length: usize, advice: i32) -> i32;
    }
    const PAGE: usize = 4096;
    const HUGE_PAGE: i32 = 14; // MADV_HUGEPAGE
    let start = room.as_mut_ptr() as usize;
    let end = start + size_of_val(room);
    // What is left at the end gets a large page where it fills half of one.
    let last = if end % LARGE >= LARGE / 2 { end.next_multiple_of(LARGE) } else { end / PAGE * PAGE };
    let first = start.next_multiple_of(PAGE);
    if last > first && last - first >= LARGE {
        // SAFETY: the advice changes no byte of these pages, not all of which are ours, and its failure changes nothing.
        unsafe { madvise(room.as_mut_ptr().cast::<u8>().wrapping_add(first - start), last - first, HUGE_PAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise<T>(_room: &mut [T]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_its_bytes_as_it_grows_into_large_pages_and_out_of_them() {
        for align in [1, 16, 64, 4096, 2 * LARGE] {
            let layout = |size| Layout::from_size_align(size, align).unwrap();
            let mut size = 1000;
            // SAFETY: every piece is written and read inside its size, and given back with the layout it has then.
            unsafe {
                let mut memory = Memory.alloc_zeroed(layout(size));
                assert!((0..size).all(|i| *memory.add(i) == 0));
                (0..size).for_each(|i| *memory.add(i) = i as u8);
                for wanted in [5000, LARGE - 1, LARGE, 3 * LARGE + 77, LARGE + 1, 100_000, 2 * LARGE, 900] {
                    memory = Memory.realloc(memory, layout(size), wanted);
                    size = wanted;
                    assert!((0..900).all(|i| *memory.add(i) == i as u8));
                    memory.add(size - 1).write((size - 1) as u8);
                    let is_long = cfg!(target_os = "linux") && align >= 64 && size >= LARGE;
                    assert!((memory as usize).is_multiple_of(if is_long { LARGE.max(align) } else { align }));
                }
                Memory.dealloc(memory, layout(size));
                let zeroed = Memory.alloc_zeroed(layout(LARGE + 5));
                assert!((0..LARGE + 5).all(|i| *zeroed.add(i) == 0));
                Memory.dealloc(zeroed, layout(LARGE + 5));
            }
        }
    }
}
