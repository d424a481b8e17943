//! Writing columns to an index file, and reading them back.

use std::path::Path;

use roaring::RoaringBitmap;

use crate::codec::{Header, Reader, Writer};
use crate::columns::{Columns, Entries, Field};
use crate::values::Dictionary;
use crate::{Error, Result};

/// The place of this kind in index files.
pub(crate) const KIND: u32 = 17;

/// Numbers in the section that says how long the others are.
const SHAPE: usize = 11;

impl Columns {
    /// Writes everything to a file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let rows = self.next_row() as u64;
        let header = Header { kind: KIND, metric: 0, dimension: 0, rows, next_id: self.stale as i64 };
        let mut file = Writer::create(path, header)?;
        let alive = (0..rows as u32).filter(|row| self.alive[*row as usize]);
        let alive = bytes(&RoaringBitmap::from_sorted_iter(alive).expect("a range ascends"))?;
        let sizes = [self.fields.len() as u64, alive.len() as u64];
        file.section(b"columns ", 2, sizes.into_iter(), u64::to_le_bytes)?;
        file.section(b"alive   ", alive.len(), alive.into_iter(), |byte| [byte])?;
        for field in &self.fields {
            let Field { name, present, listed, nulls, trues, falses, ints, floats, texts, dictionary } = field;
            let sets = [present, listed, nulls, trues, falses].map(bytes);
            let sets = sets.into_iter().collect::<Result<Vec<_>>>()?;
            let entries =
                [ints.rows.len(), floats.rows.len(), texts.rows.len(), dictionary.len(), dictionary.bytes.len()];
            let shape =
                [name.len()].into_iter().chain(sets.iter().map(Vec::len)).chain(entries).map(|size| size as u64);
            file.section(b"field   ", SHAPE, shape, u64::to_le_bytes)?;
            file.section(b"name    ", name.len(), name.bytes(), |byte| [byte])?;
            for set in sets {
                file.section(b"rows    ", set.len(), set.into_iter(), |byte| [byte])?;
            }
            write(&mut file, ints, i64::to_le_bytes)?;
            write(&mut file, floats, f64::to_le_bytes)?;
            write(&mut file, texts, u32::to_le_bytes)?;
            file.section(b"ends    ", dictionary.len(), dictionary.ends.iter().copied(), u64::to_le_bytes)?;
            file.section(b"times   ", dictionary.len(), dictionary.times.iter().copied(), i64::to_le_bytes)?;
            file.section(b"texts   ", dictionary.bytes.len(), dictionary.bytes.bytes(), |byte| [byte])?;
        }
        file.finish()
    }

    /// Reads a file that `save` wrote, and checks that nothing in it points outside.
    pub fn load(path: &Path) -> Result<Self> {
        let (mut file, header) = Reader::open(path)?;
        if header.kind != KIND || header.rows > 1 << 32 {
            return Err(wrong(&file));
        }
        let rows = header.rows as usize;
        let sizes = file.section(b"columns ", 2, u64::from_le_bytes)?;
        let mut alive = vec![false; rows];
        for row in set(&mut file, b"alive   ", sizes[1], rows)? {
            alive[row as usize] = true;
        }
        let fields = (0..sizes[0]).map(|_| field(&mut file, rows)).collect::<Result<_>>()?;
        file.finish()?;
        Ok(Self::from_parts(fields, alive, usize::try_from(header.next_id).unwrap_or(0)))
    }
}

fn wrong(file: &Reader) -> Error {
    file.corrupt("its columns do not fit together")
}

/// A set of rows, in the format that all libraries of roaring bitmaps share.
fn bytes(rows: &RoaringBitmap) -> Result<Vec<u8>> {
    let mut rows = rows.clone();
    rows.optimize();
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut bytes)?;
    Ok(bytes)
}

fn write<T: Copy, const N: usize>(
    file: &mut Writer,
    entries: &Entries<T>,
    to_bytes: impl Fn(T) -> [u8; N],
) -> Result<()> {
    file.section(b"rows    ", entries.rows.len(), entries.rows.iter().copied(), u32::to_le_bytes)?;
    file.section(b"values  ", entries.values.len(), entries.values.iter().copied(), to_bytes)
}

fn read<T, const N: usize>(
    file: &mut Reader,
    count: u64,
    rows: usize,
    of: impl Fn([u8; N]) -> T,
) -> Result<Entries<T>> {
    let count = usize::try_from(count).map_err(|_| wrong(file))?;
    let found = file.section(b"rows    ", count, u32::from_le_bytes)?;
    if found.iter().any(|row| *row as usize >= rows) {
        return Err(wrong(file));
    }
    Ok(Entries { rows: found, values: file.section(b"values  ", count, of)? })
}

fn text(file: &mut Reader, tag: &[u8; 8], length: u64) -> Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(|_| wrong(file))?;
    file.section(tag, length, |[byte]: [u8; 1]| byte)
}

fn set(file: &mut Reader, tag: &[u8; 8], length: u64, rows: usize) -> Result<RoaringBitmap> {
    let bytes = text(file, tag, length)?;
    let set = RoaringBitmap::deserialize_from(&bytes[..]).map_err(|_| wrong(file))?;
    if set.max().is_some_and(|row| row as usize >= rows) { Err(wrong(file)) } else { Ok(set) }
}

fn field(file: &mut Reader, rows: usize) -> Result<Field> {
    let shape = file.section(b"field   ", SHAPE, u64::from_le_bytes)?;
    let name = String::from_utf8(text(file, b"name    ", shape[0])?).map_err(|_| wrong(file))?;
    let [present, listed, nulls, trues, falses] = [1, 2, 3, 4, 5].map(|at| set(file, b"rows    ", shape[at], rows));
    let (ints, floats) =
        (read(file, shape[6], rows, i64::from_le_bytes)?, read(file, shape[7], rows, f64::from_le_bytes)?);
    let texts = read(file, shape[8], rows, u32::from_le_bytes)?;
    let count = usize::try_from(shape[9]).map_err(|_| wrong(file))?;
    let ends = file.section(b"ends    ", count, u64::from_le_bytes)?;
    let times = file.section(b"times   ", count, i64::from_le_bytes)?;
    let bytes = text(file, b"texts   ", shape[10])?;
    let dictionary = Dictionary::from_parts(bytes, ends, times).ok_or_else(|| wrong(file))?;
    if texts.values.iter().any(|code| *code as usize >= count) || floats.values.iter().any(|value| !value.is_finite()) {
        return Err(wrong(file));
    }
    let (present, listed, nulls, trues, falses) = (present?, listed?, nulls?, trues?, falses?);
    Ok(Field { name, present, listed, nulls, trues, falses, ints, floats, texts, dictionary })
}
