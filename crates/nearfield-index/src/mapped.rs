//! float32 numbers that stay in a file: the system reads a page of them when it is first looked at, and takes its memory
//! back when it needs it.
//!
//! What is mapped must stay what it is. Index files are written under another name and renamed, never in place, so a map
//! goes on showing the file that was opened, also when another has taken its name. A file that somebody cuts short while
//! it is mapped ends the process (SIGBUS): no program can promise anything about pages that are gone.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;

use memmap2::{Mmap, MmapOptions};

/// Numbers that are turned into bytes at a time.
const CHUNK: usize = 1 << 16;

/// Bytes of a large page. Linux keeps what was written at once on as large pages as it fits, and maps these whole.
const LARGE: usize = 2 << 20;

/// What takes no more than one part in so many of the memory is read from the disk a large page at a time, though it is
/// looked at here and there: all of it is there soon. Of more, only what is looked at.
#[cfg(target_os = "linux")]
pub(crate) const ROOM: usize = 8;

/// Bytes of memory that the machine has, or that its control group (of version 2, then 1) lets this process have; 0 where
/// it does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn memory() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let told = read("/proc/meminfo");
        let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes: Option<usize> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        limits.iter().filter_map(|path| read(path).trim().parse().ok()).fold(1024 * kilobytes.unwrap_or(0), usize::min)
    })
}

/// Writes a file from its beginning, a large page at a time: a search that reads rows here and there in it waits less for
/// their addresses.
#[derive(Debug)]
pub(crate) struct LargeWriter<W: Write>(BufWriter<W>);

impl<W: Write> LargeWriter<W> {
    pub fn new(file: W) -> Self {
        Self(BufWriter::with_capacity(LARGE, file))
    }

    pub fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // What exactly fills the buffer is copied into it; with one byte more, it would be written as it is.
            let room = match LARGE - self.0.buffer().len() {
                0 => LARGE,
                room => room,
            };
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.0.write_all(now)?;
            bytes = later;
        }
        Ok(())
    }

    /// The file, with all that was put into it.
    pub fn finish(self) -> io::Result<W> {
        self.0.into_inner().map_err(|error| error.into_error())
    }
}

/// float32 numbers in a file.
#[derive(Debug)]
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// `count` numbers that begin at this byte of a file, a multiple of four. The file must be long enough.
    pub fn of(file: &File, offset: u64, count: usize) -> io::Result<Self> {
        let bytes = count.checked_mul(4).filter(|bytes| *bytes > 0 && offset.is_multiple_of(4));
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let end = offset.checked_add(bytes as u64).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if file.metadata()?.len() < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the map is read only. Nearfield changes no file in place, see above, and says to others that they
        // must not either.
        let map = unsafe { MmapOptions::new().offset(offset).len(bytes).map(file)? };
        let mapped = Self(map);
        mapped.in_order(false);
        Ok(mapped)
    }

    /// Writes these rows to a file without a name in `folder`, which is gone when nobody maps it any more.
    pub fn spilled<'a>(folder: &Path, rows: impl Iterator<Item = &'a [f32]>) -> io::Result<Self> {
        let mut file = LargeWriter::new(tempfile::tempfile_in(folder)?);
        let (mut bytes, mut count) = (Vec::with_capacity(8 * CHUNK), 0);
        for numbers in rows.flat_map(|row| row.chunks(CHUNK)) {
            count += numbers.len();
            bytes.extend(numbers.iter().flat_map(|x| x.to_ne_bytes()));
            if bytes.len() >= 4 * CHUNK {
                file.put(&bytes)?;
                bytes.clear();
            }
        }
        file.put(&bytes)?;
        Self::of(&file.finish()?, 0, count)
    }

    /// Says whether the numbers are about to be read one after the other, or here and there, where reading ahead of what
    /// is asked for would fill the memory with what nobody looks at.
    pub fn in_order(&self, yes: bool) {
        #[cfg(unix)]
        let _ = self.0.advise(if yes { memmap2::Advice::Sequential } else { memmap2::Advice::Random }); // a hint
        #[cfg(not(unix))]
        let _ = yes;
    }

    /// Says that the numbers may be read a large page at a time, where so many bytes are read in this way.
    pub fn in_large_pages(&self, bytes: usize) {
        #[cfg(target_os = "linux")]
        if bytes <= memory() / ROOM {
            let _ = self.0.advise(memmap2::Advice::HugePage); // a hint
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }

    /// Takes these numbers out of this process's memory; what is looked at again comes from the file again.
    pub fn let_go(&self, numbers: Range<usize>) {
        #[cfg(unix)]
        {
            let (start, bytes) = (4 * numbers.start, 4 * numbers.len());
            // SAFETY: the map is read only and of a file, so its pages are those of the file before and after.
            let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, bytes) }; // a hint
        }
        #[cfg(not(unix))]
        let _ = numbers;
    }

    /// The bytes in the file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The numbers.
    #[inline]
    pub fn numbers(&self) -> &[f32] {
        // SAFETY: the map begins at a multiple of four bytes of a page and is a multiple of four bytes long; any four
        // bytes are a float32.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / 4) }
    }
}

/// Whether large pages were asked for where this stands.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn is_in_large_pages<T>(at: *const T) -> bool {
    let address = |text: &str| usize::from_str_radix(text, 16);
    let mut inside = false;
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((Ok(start), Ok(end))) = first.split_once('-').map(|(start, end)| (address(start), address(end))) {
            inside = (start..end).contains(&(at as usize));
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split(' ').any(|flag| flag == "hg");
        }
    }
    panic!("nothing is mapped there")
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    #[test]
    fn numbers_beyond_four_gigabytes_are_where_they_belong() {
        // A file with a hole: it takes two pages of the disk.
        let mut file = tempfile::tempfile().unwrap();
        let offset = (5u64 << 30) + 64;
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(&[1.5f32, -2.0, 3.25].map(f32::to_ne_bytes).concat()).unwrap();
        assert_eq!(Mapped::of(&file, offset, 3).unwrap().numbers(), [1.5, -2.0, 3.25]);
        let all = Mapped::of(&file, 0, (offset / 4) as usize + 3).unwrap();
        assert_eq!(all.numbers()[(offset / 4) as usize..], [1.5, -2.0, 3.25]);
        assert!(Mapped::of(&file, offset, 4).is_err() && Mapped::of(&file, u64::MAX - 3, 4).is_err());
        assert!(Mapped::of(&file, 2, 1).is_err() && Mapped::of(&file, 0, usize::MAX / 2).is_err());
    }

    #[test]
    fn pieces_of_any_size_are_written_a_large_page_at_a_time() {
        #[derive(Default)]
        struct Written(Vec<u8>, Vec<usize>);
        impl Write for Written {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.extend(bytes);
                self.1.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let all: Vec<u8> = (0..5 * LARGE + 77).map(|i| (i * i % 251) as u8).collect();
        let mut file = LargeWriter::new(Written::default());
        let sizes = [48, LARGE - 48, 0, 2 * LARGE + 1, LARGE - 1, 7, LARGE - 8, 1, 1];
        let mut at = 0;
        for size in sizes.into_iter().chain([all.len() - sizes.iter().sum::<usize>()]) {
            file.put(&all[at..at + size]).unwrap();
            at += size;
        }
        let Written(bytes, writes) = file.finish().unwrap();
        assert!(bytes == all);
        assert_eq!(writes, [LARGE, LARGE, LARGE, LARGE, LARGE, 77]);
    }

    #[test]
    fn a_spilled_file_holds_the_rows_and_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<Vec<f32>> = (0..3).map(|i| (0..100_000).map(|j| (i * j) as f32).collect()).collect();
        let mapped = Mapped::spilled(folder.path(), rows.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(mapped.numbers(), rows.concat());
        assert_eq!(folder.path().read_dir().unwrap().count(), if cfg!(unix) { 0 } else { 1 });
        assert!(Mapped::spilled(&folder.path().join("nowhere"), [&[1.0f32][..]].into_iter()).is_err());
    }
}
