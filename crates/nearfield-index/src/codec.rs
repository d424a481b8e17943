//! Index files (`.nfi`): a header, then sections, each with a checksum. Little-endian; `docs/format.md` has the bytes.
//!
//! A file is written under a temporary name, synced, and renamed, so a name never stands for half a file.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"nearfld\n";
/// Version of the layout of index files.
pub const VERSION: u32 = 1;
/// Bytes of the header before its checksum.
const HEAD: usize = 40;
const CHUNK: usize = 1 << 18;

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
    file: Option<BufWriter<File>>,
}

impl Writer {
    /// Starts a file that will stand at `path`.
    pub fn create(path: &Path, header: Header) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        let mut writer = Self { path: path.to_path_buf(), temporary, file: Some(file) };
        let mut head = Vec::from(MAGIC);
        for word in [VERSION, header.kind, header.metric, header.dimension] {
            head.extend(word.to_le_bytes());
        }
        head.extend(header.rows.to_le_bytes());
        head.extend(header.next_id.to_le_bytes());
        let checksum = xxhash_rust::xxh3::xxh3_64(&head);
        head.extend(checksum.to_le_bytes());
        writer.file().write_all(&head)?;
        Ok(writer)
    }

    fn file(&mut self) -> &mut BufWriter<File> {
        self.file.as_mut().expect("the file is there until it is finished or dropped")
    }

    /// Writes a section of `count` numbers, each `N` bytes.
    pub fn section<T, const N: usize>(
        &mut self,
        tag: &[u8; 8],
        count: usize,
        values: impl Iterator<Item = T>,
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<()> {
        let mut hash = Xxh3::new();
        let mut buffer = Vec::from(*tag);
        buffer.extend(((count * N) as u64).to_le_bytes());
        for value in values {
            buffer.extend(to_bytes(value));
            if buffer.len() >= CHUNK {
                hash.update(&buffer);
                self.file().write_all(&buffer)?;
                buffer.clear();
            }
        }
        hash.update(&buffer);
        buffer.extend(hash.digest().to_le_bytes());
        Ok(self.file().write_all(&buffer)?)
    }

    /// Syncs the file and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        let file = self.file.take().expect("finished once").into_inner().map_err(|error| error.into_error())?;
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

/// Reads an index file, section after section, in the order they were written.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    left: u64,
}

impl Reader {
    /// Opens a file and checks its header.
    pub fn open(path: &Path) -> Result<(Self, Header)> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        let mut reader = Self { path: path.to_path_buf(), file: BufReader::with_capacity(1 << 20, file), left };
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
        let mut checksum = [0; 8];
        reader.read(&mut checksum)?;
        if xxhash_rust::xxh3::xxh3_64(&head) != u64::from_le_bytes(checksum) {
            return Err(reader.corrupt("the checksum of its header is wrong"));
        }
        let rows = u64::from_le_bytes(head[24..32].try_into().expect("eight bytes"));
        let next_id = i64::from_le_bytes(head[32..40].try_into().expect("eight bytes"));
        Ok((reader, Header { kind: word(12), metric: word(16), dimension: word(20), rows, next_id }))
    }

    /// The error that says what is wrong with this file.
    pub fn corrupt(&self, why: &str) -> Error {
        Error::Corrupt(format!("{} cannot be used: {why}; build the index again from its source", self.path.display()))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        if (bytes.len() as u64) > self.left {
            return Err(self.corrupt("it ends too early"));
        }
        self.left -= bytes.len() as u64;
        Ok(self.file.read_exact(bytes)?)
    }

    /// Reads the next section, which must have this tag and hold `count` numbers of `N` bytes.
    pub fn section<T, const N: usize>(
        &mut self,
        tag: &[u8; 8],
        count: usize,
        of: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        let mut head = [0; 16];
        self.read(&mut head)?;
        let length = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
        if head[..8] != *tag || Some(length) != (count as u64).checked_mul(N as u64) || length > self.left {
            return Err(self.corrupt("a section is not where it should be"));
        }
        let mut hash = Xxh3::new();
        hash.update(&head);
        let mut values = Vec::with_capacity(count);
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

    /// Reads over the next section, whatever it holds, and checks it.
    fn pass_section(&mut self) -> Result<()> {
        let mut head = [0; 16];
        self.read(&mut head)?;
        let mut length = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
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
