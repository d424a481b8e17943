//! Bytes on their way to the disk before anybody waits for them there.

use std::fs::File;

/// Has the system begin to put these bytes of a file on the disk, where it can be told to, and does not wait for that:
/// whoever syncs the file then waits for less. It promises nothing.
#[cfg(target_os = "linux")]
pub(crate) fn begin(file: &File, start: u64, bytes: u64) {
    use std::os::fd::AsRawFd;

    unsafe extern "C" {
        fn sync_file_range(file: i32, start: i64, bytes: i64, how: u32) -> i32;
    }
    const WRITE: u32 = 2; // SYNC_FILE_RANGE_WRITE
    if let (Ok(start), Ok(bytes)) = (i64::try_from(start), i64::try_from(bytes)) {
        // SAFETY: the file is open as long as it is borrowed; the call touches no memory, changes no byte of the file, and
        // its failure changes nothing.
        unsafe { sync_file_range(file.as_raw_fd(), start, bytes, WRITE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn begin(_file: &File, _start: u64, _bytes: u64) {}
