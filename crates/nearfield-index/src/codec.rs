//! Index files (`.nfi`): a header, then sections, each with a checksum. Little-endian; `docs/format.md` has the bytes.
//!
//! A file is written under a temporary name, synced, and renamed, so a name never stands for half a file. What a section
//! holds begins at a multiple of 64 bytes, so that it can be mapped.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nearfield_kernels::pages;
use xxhash_rust::xxh3::Xxh3;

use crate::mapped::{LargeWriter, Mapped};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"nearfld\n";
/// Version of the layout of index files.
pub const VERSION: u32 = 2;
/// Bytes of the header before its checksum.
const HEAD: usize = 40;
const CHUNK: usize = 1 << 18;
/// What sections hold begins at a multiple of so many bytes; in version 1 they were not aligned.
const ALIGNED: u64 = 64;

/// Bytes between the head of a section that begins at `at` and what it holds.
fn padding(version: u32, at: u64) -> usize {
    if version < 2 { 0 } else { ((at + 16).next_multiple_of(ALIGNED) - at - 16) as usize }
}

/// What stands at the head of an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Kind of the index: 0 is flat, 1 is hnsw.
    pub kind: u32,
    /// Metric, by its place in `Metric::ALL`.
    pub metric: u32,
    /// Dimension of the vectors.
    pub dimension: u32,
    /// Rows in the file.
    pub rows: u64,
    /// The id that the next row gets where none is given.
    pub next_id: i64,
}

/// Writes an index file; nothing is seen under its name until `finish`.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<LargeWriter<File>>,
    /// Bytes written.
    at: u64,
}

impl Writer {
    /// Starts a file that will stand at `path`.
    pub fn create(path: &Path, header: Header) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = LargeWriter::new(File::create(&temporary)?);
        let mut writer = Self { path: path.to_path_buf(), temporary, file: Some(file), at: 0 };
        let mut head = Vec::from(MAGIC);
        for word in [VERSION, header.kind, header.metric, header.dimension] {
            head.extend(word.to_le_bytes());
        }
        head.extend(header.rows.to_le_bytes());
        head.extend(header.next_id.to_le_bytes());
        let checksum = xxhash_rust::xxh3::xxh3_64(&head);
        head.extend(checksum.to_le_bytes());
        writer.put(&head)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        Ok(self.file.as_mut().expect("the file is there until it is finished or dropped").put(bytes)?)
    }

    /// Writes a section of `count` numbers, each `N` bytes.
    pub fn section<T, const N: usize>(
        &mut self,
        tag: &[u8; 8],
        count: usize,
        values: impl Iterator<Item = T>,
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<()> {
        self.parts(tag, count * N, values, |value, buffer| buffer.extend(to_bytes(value)))
    }

    /// Writes a section of rows of float32, which are `count` numbers together.
    pub fn rows<'a>(&mut self, tag: &[u8; 8], count: usize, rows: impl Iterator<Item = &'a [f32]>) -> Result<()> {
        self.parts(tag, 4 * count, rows, |row, buffer| buffer.extend(row.iter().flat_map(|x| x.to_le_bytes())))
    }

    fn parts<T>(
        &mut self,
        tag: &[u8; 8],
        length: usize,
        values: impl Iterator<Item = T>,
        append: impl Fn(T, &mut Vec<u8>),
    ) -> Result<()> {
        let mut hash = Xxh3::new();
        let mut buffer = Vec::with_capacity(2 * CHUNK);
        buffer.extend(tag);
        buffer.extend((length as u64).to_le_bytes());
        buffer.resize(16 + padding(VERSION, self.at), 0);
        for value in values {
            append(value, &mut buffer);
            if buffer.len() >= CHUNK {
                hash.update(&buffer);
                self.put(&buffer)?;
                buffer.clear();
            }
        }
        hash.update(&buffer);
        buffer.extend(hash.digest().to_le_bytes());
        self.put(&buffer)
    }

    /// Syncs the file and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        let file = self.file.take().expect("finished once").finish()?;
        file.sync_all()?;
        drop(file); // Windows renames closed files only
        fs::rename(&self.temporary, &self.path)?;
        // A rename is on disk when its folder is; Windows has no such call and needs none.
        #[cfg(unix)]
        File::open(self.path.parent().filter(|folder| folder != &Path::new("")).unwrap_or(Path::new(".")))?
            .sync_all()?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.file = None;
        let _ = fs::remove_file(&self.temporary); // gone already when the file was finished
    }
}

/// Rows of float32 that stay in an index file. Its checksum is not looked at before [`Kept::verify`].
#[derive(Debug)]
pub(crate) struct Kept {
    pub mapped: Mapped,
    path: PathBuf,
    /// The checksum up to the rows, and that of all.
    head: Vec<u8>,
    checksum: u64,
}

impl Kept {
    /// Reads all rows and compares them with their checksum.
    pub fn verify(&self) -> Result<()> {
        self.mapped.in_order(true);
        let mut hash = Xxh3::new();
        hash.update(&self.head);
        hash.update(self.mapped.bytes());
        self.mapped.in_order(false);
        if hash.digest() == self.checksum { Ok(()) } else { Err(corrupt(&self.path, "a checksum is wrong")) }
    }
}

/// The error that says what is wrong with a file.
fn corrupt(path: &Path, why: &str) -> Error {
    Error::Corrupt(format!("{} cannot be used: {why}; build the index again from its source", path.display()))
}

/// A section of a file: where it begins, and how many bytes are left there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: u64,
    left: u64,
}

/// Reads an index file, section after section, in the order they were written, or some later.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    left: u64,
    /// Bytes read.
    at: u64,
    version: u32,
}

impl Reader {
    /// Opens a file and checks its header.
    pub fn open(path: &Path) -> Result<(Self, Header)> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        let file = BufReader::with_capacity(1 << 20, file);
        let mut reader = Self { path: path.to_path_buf(), file, left, at: 0, version: VERSION };
        let mut head = [0; HEAD];
        if left < HEAD as u64 || !reader.read(&mut head).is_ok_and(|()| head[..8] == MAGIC) {
            return Err(reader.corrupt("it is not a nearfield index file"));
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        if word(8) > VERSION {
            let (path, version) = (path.display(), word(8));
            return Err(Error::TooNew(format!(
                "{path} has index format {version}, this nearfield reads up to {VERSION}: upgrade nearfield"
            )));
        }
        reader.version = word(8);
        let mut checksum = [0; 8];
        reader.read(&mut checksum)?;
        if xxhash_rust::xxh3::xxh3_64(&head) != u64::from_le_bytes(checksum) {
            return Err(reader.corrupt("the checksum of its header is wrong"));
        }
        let rows = u64::from_le_bytes(head[24..32].try_into().expect("eight bytes"));
        let next_id = i64::from_le_bytes(head[32..40].try_into().expect("eight bytes"));
        Ok((reader, Header { kind: word(12), metric: word(16), dimension: word(20), rows, next_id }))
    }

    /// Version of the layout of this file.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The error that says what is wrong with this file.
    pub fn corrupt(&self, why: &str) -> Error {
        corrupt(&self.path, why)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        if (bytes.len() as u64) > self.left {
            return Err(self.corrupt("it ends too early"));
        }
        self.left -= bytes.len() as u64;
        self.at += bytes.len() as u64;
        Ok(self.file.read_exact(bytes)?)
    }

    /// Reads up to what the next section holds.
    fn any_head(&mut self) -> Result<(Vec<u8>, u64)> {
        let mut head = vec![0; 16 + padding(self.version, self.at)];
        self.read(&mut head)?;
        let length = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
        if length > self.left { Err(self.corrupt("it ends too early")) } else { Ok((head, length)) }
    }

    /// As `any_head`, of a section that must have this tag and hold `count` numbers of `size` bytes.
    fn head(&mut self, tag: &[u8; 8], count: usize, size: usize) -> Result<Vec<u8>> {
        let (head, length) = self.any_head()?;
        if head[..8] != *tag || Some(length) != (count as u64).checked_mul(size as u64) {
            return Err(self.corrupt("a section is not where it should be"));
        }
        Ok(head)
    }

    /// The next section, which must have this tag and hold `count` float32 numbers, without reading it. None where there
    /// are none.
    pub(crate) fn kept(&mut self, tag: &[u8; 8], count: usize) -> Result<Option<Kept>> {
        if count == 0 || cfg!(target_endian = "big") {
            return if self.section(tag, count, f32::from_le_bytes)?.is_empty() {
                Ok(None)
            } else {
                Err(Error::Invalid(
                    "index files cannot be mapped on this processor: its bytes are in another order".into(),
                ))
            };
        }
        let head = self.head(tag, count, 4)?;
        let mapped = Mapped::of(self.file.get_ref(), self.at, count)?;
        let length = mapped.bytes().len();
        self.file.seek_relative(length as i64)?;
        (self.at, self.left) = (self.at + length as u64, self.left - length as u64);
        let mut checksum = [0; 8];
        self.read(&mut checksum)?;
        Ok(Some(Kept { mapped, path: self.path.clone(), head, checksum: u64::from_le_bytes(checksum) }))
    }

    /// Reads the next section, which must have this tag and hold `count` numbers of `N` bytes.
    pub fn section<T, const N: usize>(
        &mut self,
        tag: &[u8; 8],
        count: usize,
        of: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        let head = self.head(tag, count, N)?;
        let mut hash = Xxh3::new();
        hash.update(&head);
        let mut values = Vec::new();
        pages::reserve(&mut values, count);
        let mut buffer = vec![0; CHUNK - CHUNK % N];
        while values.len() < count {
            let wanted = buffer.len().min((count - values.len()) * N);
            self.read(&mut buffer[..wanted])?;
            hash.update(&buffer[..wanted]);
            values.extend(buffer[..wanted].chunks_exact(N).map(|bytes| of(bytes.try_into().expect("N bytes"))));
        }
        let mut checksum = [0; 8];
        self.read(&mut checksum)?;
        if hash.digest() != u64::from_le_bytes(checksum) {
            return Err(self.corrupt("a checksum is wrong"));
        }
        Ok(values)
    }

    /// Goes past the next sections without reading them; returns where the first of them is.
    pub(crate) fn pass(&mut self, sections: usize) -> Result<Place> {
        let place = Place { at: self.at, left: self.left };
        for _ in 0..sections {
            let (_, length) = self.any_head()?;
            let whole = length.checked_add(8).filter(|whole| *whole <= self.left); // with its checksum
            let whole = whole.ok_or_else(|| self.corrupt("it ends too early"))?;
            self.go_to(Place { at: self.at + whole, left: self.left - whole })?;
        }
        Ok(place)
    }

    /// Goes on reading there; returns where it was.
    pub(crate) fn go_to(&mut self, place: Place) -> Result<Place> {
        let before = Place { at: self.at, left: self.left };
        self.file.seek(SeekFrom::Start(place.at))?;
        (self.at, self.left) = (place.at, place.left);
        Ok(before)
    }

    /// Reads over the next section, whatever it holds, and checks it.
    fn pass_section(&mut self) -> Result<()> {
        let (head, mut length) = self.any_head()?;
        let mut hash = Xxh3::new();
        hash.update(&head);
        let mut buffer = vec![0; CHUNK];
        while length > 0 {
            let wanted = length.min(CHUNK as u64) as usize;
            self.read(&mut buffer[..wanted])?;
            hash.update(&buffer[..wanted]);
            length -= wanted as u64;
        }
        let mut checksum = [0; 8];
        self.read(&mut checksum)?;
        if hash.digest() == u64::from_le_bytes(checksum) { Ok(()) } else { Err(self.corrupt("a checksum is wrong")) }
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<()> {
        if self.left == 0 { Ok(()) } else { Err(self.corrupt("it is longer than it should be")) }
    }
}

/// Reads an index file of any kind to its end and checks every checksum in it.
pub fn check(path: &Path) -> Result<()> {
    let (mut reader, _) = Reader::open(path)?;
    while reader.left > 0 {
        reader.pass_section()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_read_out_of_order_are_checked_as_any_other() {
        let path = std::env::temp_dir().join(format!("nearfield-order-{}.nfi", std::process::id()));
        let header = Header { kind: 1, metric: 0, dimension: 1, rows: 0, next_id: 0 };
        let mut file = Writer::create(&path, header).unwrap();
        for (tag, numbers) in [(b"first   ", 0..5u32), (b"second  ", 5..70_000), (b"third   ", 7..8)] {
            file.section(tag, numbers.len(), numbers, u32::to_le_bytes).unwrap();
        }
        file.finish().unwrap();
        let read = || -> Result<Vec<u32>> {
            let (mut file, _) = Reader::open(&path)?;
            let place = file.pass(2)?;
            let mut all = file.section(b"third   ", 1, u32::from_le_bytes)?;
            let end = file.go_to(place)?;
            all.extend(file.section(b"first   ", 5, u32::from_le_bytes)?);
            all.extend(file.section(b"second  ", 69_995, u32::from_le_bytes)?);
            file.go_to(end)?;
            file.finish()?;
            Ok(all)
        };
        assert!(read().unwrap().into_iter().eq((7..8).chain(0..70_000)));
        let whole = fs::read(&path).unwrap();
        // Lengths, the bytes between, what is at the end: changed, or not there.
        let first = HEAD + 8 + 8;
        for at in [first, first + 7, 200, whole.len() / 2, whole.len() - 100, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            fs::write(&path, &damaged).unwrap();
            assert!(matches!(read(), Err(Error::Corrupt(_))), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(read(), Err(Error::Corrupt(_))), "cut at {at}");
        }
        fs::write(&path, [&whole[..], &[0; 3]].concat()).unwrap();
        assert!(matches!(read(), Err(Error::Corrupt(_))));
        fs::remove_file(path).unwrap();
    }
}
