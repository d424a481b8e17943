//! Memory on large pages. A walk through a graph reads lines from all over an array, and with pages of 4 KB nearly
//! every one of them misses the table of addresses (TLB) as well as the cache.

/// A vector of `count` values, on 2 MB pages where the system grants them. Only the request depends on the system.
pub fn filled<T: Copy>(count: usize, value: T) -> Vec<T> {
    let mut values = Vec::with_capacity(count);
    advise(values.spare_capacity_mut());
    values.resize(count, value);
    values
}

/// Bytes from which on a growing vector is not copied, lest there be two of it: the system may move its pages instead,
/// which breaks large ones up.
const COPIED: usize = 256 << 20;

/// Makes room for `more` values at the end of a vector, on 2 MB pages where the system grants them. Asked for more
/// than there is room for, it makes room for as many again while that is copied, later for half, so that many small calls cost
/// little more than one.
pub fn reserve<T>(values: &mut Vec<T>, more: usize) {
    if values.capacity() - values.len() < more {
        if size_of_val(values.as_slice()) < COPIED {
            let mut moved = Vec::with_capacity(values.len() + more.max(values.len()));
            advise(moved.spare_capacity_mut());
            moved.append(values);
            *values = moved;
        } else {
            values.reserve(more.max(values.len() / 2));
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
    let (first, last) = (start.next_multiple_of(PAGE), (start + size_of_val(room)) / PAGE * PAGE);
    if last > first && last - first >= 2 << 20 {
        // SAFETY: the pages lie wholly inside `room`, which is ours alone; the advice changes no byte of them, and
        // its failure changes nothing.
        unsafe { madvise(room.as_mut_ptr().cast::<u8>().wrapping_add(first - start), last - first, HUGE_PAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise<T>(_room: &mut [T]) {}
